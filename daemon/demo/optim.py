# SPDX-License-Identifier: MIT
"""Muon: momentum whose step is orthogonalised, for the matrices of the layers.

Method and the quintic's coefficients: Keller Jordan et al., "Muon: An optimizer for hidden layers
in neural networks" (2024); the scale 0.2 * sqrt(max(rows, columns)), which makes its steps as
large as AdamW's: Liu et al., "Muon is Scalable for LLM Training" (arXiv 2502.16982).
"""
import torch


def orthogonalise(g):
    """The nearest semi-orthogonal matrix to each of g [..., n, m], roughly, by five quintic steps."""
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Parameters of two dimensions, or three where the first counts matrices."""

    def __init__(self, params, lr, momentum=0.95, decay=0.0):
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'decay': decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                m = state.setdefault('momentum', torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group['momentum'])
                step = orthogonalise(p.grad.lerp(m, group['momentum']))
                p.mul_(1 - group['lr'] * group['decay'])
                p.add_(step, alpha=-group['lr'] * 0.2 * max(p.shape[-2:]) ** 0.5)
