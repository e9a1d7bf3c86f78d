"""What trajectories are worth in a step: target distribution, exact flows, reference policy, learned flows."""
