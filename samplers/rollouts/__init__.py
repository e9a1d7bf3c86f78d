"""The worker behind the sampler `policy`: an engine that holds a copy of the policy's weights and draws.

- `engine`: the `RolloutEngine` protocol
- `sampler`: `RolloutSampler`, trajectories of an engine, also drawn before the step that reads them
- `engine_policy`: `EnginePolicy`, beams, draws and log-probabilities of an engine without a model in this process
- `vllm_engine`: vLLM in this process; `constraint`: the trie among its logits processors; `skeleton`: the folder that
  it starts from
- `server`: an engine behind HTTP; `engine_state`: what it does at a time; `asked`: what it may be asked
- `client`: the engine of a run that calls servers; `servers`: which of them answer; `http_client`: bounds of one answer
- `weights`: the policy's weights, whatever they are sharded or adapted by, bucket by bucket
- `low_rank`: adapters that travel alone, and the server's side, which merges them
- `http_weights`, `wire`: the weights to servers over HTTP, as parts of bytes
- `vllm_weights`, `vllm_groups`, `ipc_handles`: the same by vLLM's own transfer; `transfer`: the server's side of it
"""
