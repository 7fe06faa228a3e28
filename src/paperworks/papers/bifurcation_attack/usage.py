"""See how few changes of what an agent observes make it discharge a battery when it would charge it."""

import torch

from paperworks.robustness import ACG, BifurcationLayer, DynamicDistortion, GroupDifferenceLogitsLoss, from_module

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(31, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))  # your agent's
policy = from_module(network, low=-1.0, high=1.0, squash=True)  # or from_sb3(PPO.load("agent.zip"))
observations = torch.rand(200, 31)
mask = torch.arange(31) >= 6  # the calendar can't be changed

agent = BifurcationLayer(policy, threshold=policy.output_of(0.0))
attack = DynamicDistortion(ACG(GroupDifferenceLogitsLoss(), eps=0.3, mask=mask), eps_list=[0.01, 0.03, 0.1, 0.3])
result = attack(agent, observations)
flipped = (policy.act(result.adv) > 0) != (policy.act(observations) > 0)
print(f"{flipped.float().mean():.0%} of the decisions are turned round")
print(f"with changes of {result.norm[result.success].median():.2f} in the median, of features from 0 to 1")
