"""Never imported before its caller is authorized: a test looks."""
