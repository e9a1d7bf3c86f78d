"""HTTP servers: what each of them needs on an open port, and the one around a trained recommender.

- `listening`: the key, the socket, and how a server runs and stops
- `http_limits`: the key and bounds of time, size and number, checked before a request is read
- `refusals`: what goes wrong as one sentence with a status
- `app`: POST /recommend and /sample, GET /health and /metrics
- `asked`: what requests may hold; `served`: the recommender behind them; `metrics`: what is counted, for Prometheus
- `batcher`: requests that wait are drawn in one batch

FastAPI and uvicorn are those of the extra `server`, so nothing is imported here.
"""
