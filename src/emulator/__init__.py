"""A Cloud Tasks for one machine, for development and tests.

Like the core it decides without doing: `state` takes what happened and the time, and answers
with what is to be dispatched and when to look again. Around it are thin shells, one for each
kind of input and output: `grpc_protocol` and `web` in front, `dispatcher` behind, `server` to
put them together.
"""
