"""What keeps tasks going: the relay, control by people, the trial of a delivery."""
