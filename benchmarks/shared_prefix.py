"""Forward + backward of a trajectory-balance step: prompt once and K branches, against K full rows.

python benchmarks/shared_prefix.py
"""

import json
from collections.abc import Callable

import numpy as np
import torch
from common import alternate, arguments, make_catalog, make_policy, make_prompts, table
from torch import Tensor


def main() -> None:
    args = arguments(
        __doc__,
        prompts=2,
        prompt_items=32,
        branches=16,
        levels=4,
        hidden=256,
        layers=4,
        items=12_000,
        repeats=5,
        threads=2,
    )
    torch.set_num_threads(args.threads)
    catalog = make_catalog(args.items, args.levels, 256)
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.prompt_items)
    prompts = make_prompts(builder, catalog, args.prompts, args.prompt_items)
    items = torch.randint(args.items, (args.prompts, args.branches), generator=torch.Generator().manual_seed(3))
    log_reward = torch.randn(items.shape, generator=torch.Generator().manual_seed(4))

    def step(log_probs: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
        policy.model.zero_grad(set_to_none=True)
        log_pf = log_probs()
        gap = log_pf.sum(-1) - log_reward
        (gap - gap.mean(1, keepdim=True).detach()).pow(2).mean().backward()
        return log_pf.detach(), [p.grad for p in policy.model.parameters()]

    def shared() -> tuple[Tensor, list[Tensor]]:
        return step(lambda: policy.log_probs(prompts, items).log_pf)

    def naive() -> tuple[Tensor, list[Tensor]]:
        return step(lambda: policy.naive_log_probs(prompts, items))

    (ours, our_gradients), (theirs, their_gradients) = shared(), naive()
    gaps = [(a - b).abs().max().item() for a, b in zip(our_gradients, their_gradients, strict=True)]
    values = (ours - theirs).abs().max().item()
    scale = max(g.abs().max().item() for g in their_gradients)
    seconds = alternate(shared, naive, args.repeats)
    print(f"prompt {prompts.input_ids.shape[1]} tokens, K = {args.branches}, {args.levels} codes, float32")
    print(table(*seconds, ("shared prefix", "naive")))
    print(f"largest difference: log-probability {values:.1e}, gradient {max(gaps):.1e} (largest gradient {scale:.1f})")
    speedup = float(np.median(np.array(seconds[1]) / np.array(seconds[0])))
    print(
        json.dumps(
            {
                "speedup": round(speedup, 2),
                "max_diff": max(values, *gaps),
                "max_diff_log_prob": values,
                "max_diff_gradient": max(gaps),
                "largest_gradient": scale,
            }
        )
    )


if __name__ == "__main__":
    main()
