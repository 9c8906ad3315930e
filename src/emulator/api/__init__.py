"""The methods of the API: a request message in, a response message or an `ApiError` out."""
