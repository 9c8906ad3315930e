"""The methods of the API. They take a request and return a response or raise `ApiError`."""
