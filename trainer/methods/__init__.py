"""What distinguishes one way to train from another: its config, what its loss reads, its scorer and its loss.

sft.py, dpo.py, grpo.py   configs, whose method is that of without_flows.py
gflownet.py               config and method of the flow objectives
base.py                   what a method is, and what it is made of
"""
