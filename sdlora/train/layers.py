"""LoRA on every attention projection of a UNet: attach, train, detach. Knows nothing about files, captions or optimizers.

The adapters of the whole UNet live in ONE flat fp32 parameter, so that clipping, AdamW and an average of it are single
kernels. Projections that read the same input (q, k, v of self-attention; k, v of cross-attention) are one product and one
autograd node. Same mathematics as PEFT's layers (the tests compare outputs and gradients), fewer kernels.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdlora.lora.math.delta import Adapter, Adapters


class Project(torch.autograd.Function):
    """y = x (W + s B A)' + bias for n projections of one input; only A and B (and x) get a gradient.

    x (..., in) · down A (n, r, in) · up B (n, out, r) · frozen: W (n x out, in), bias or None -> y (..., n x out)
    `merged` forms W + s B A once per call (fewer operations; only exact enough in fp32), else x A' is kept for the backward.
    """

    @staticmethod
    def forward(ctx, x, down, up, frozen, scale, merged):
        weight, bias = frozen
        count, rank, width = down.shape
        rows = x.reshape(-1, width)
        if merged:
            used = torch.baddbmm(weight.view(count, -1, width), up, down, alpha=scale).view_as(weight)
            inner = None
            y = F.linear(rows, used, bias)
        else:
            used = weight
            inner = rows @ down.view(-1, width).T                              # (t, n r)
            y = F.linear(rows, weight, bias)
            for i in range(count):
                part = y[:, i * up.shape[1]:(i + 1) * up.shape[1]]
                part.addmm_(inner[:, i * rank:(i + 1) * rank], up[i].T, alpha=scale)
        ctx.save_for_backward(rows, used, down, up, inner)
        ctx.scale, ctx.merged, ctx.shape = scale, merged, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, used, down, up, inner = ctx.saved_tensors
        (count, rank, width), out = down.shape, up.shape[1]
        grad = grad.reshape(-1, count * out)
        needs_x = ctx.needs_input_grad[0]
        dense = ctx.merged and out * width <= 1.5 * rank * (out + width)
        if dense:
            full = (grad.T @ rows).view(count, out, width)                     # dW
            grad_up = torch.bmm(full, down.transpose(1, 2)).mul_(ctx.scale)
            grad_down = torch.bmm(up.transpose(1, 2), full).mul_(ctx.scale)
            grad_x = grad @ used if needs_x else None
        else:
            parts = grad.view(-1, count, out).transpose(0, 1)                  # (n, t, out)
            inner = rows @ down.view(-1, width).T if inner is None else inner
            back = torch.bmm(parts, up).mul_(ctx.scale).transpose(0, 1).reshape(-1, count * rank)   # s dy B  (t, n r)
            grad_down = (back.T @ rows).view_as(down)
            inner = inner.view(-1, count, rank).transpose(0, 1)
            grad_up = torch.bmm(parts.transpose(1, 2), inner).mul_(ctx.scale)
            grad_x = grad @ used if needs_x else None
            if grad_x is not None and not ctx.merged:
                grad_x.addmm_(back, down.view(-1, width))
        return None if grad_x is None else grad_x.view(ctx.shape), grad_down, grad_up, None, None, None


class Pieces(torch.autograd.Function):
    """The flat parameter as its A and B tensors in the compute dtype; their gradients come back as one flat tensor.

    flat (p,) fp32 -> tensors of `shapes`. Slicing with autograd would make a gradient of full length for every slice.
    """

    @staticmethod
    def forward(ctx, flat, shapes, dtype):
        ctx.shapes, ctx.like = shapes, flat
        ctx.set_materialize_grads(False)
        copy = flat.detach().to(dtype, copy=True)
        cut = copy.split([math.prod(shape) for shape in shapes])
        return tuple(piece.view(shape) for piece, shape in zip(cut, shapes, strict=True))

    @staticmethod
    def backward(ctx, *grads):
        rows = [ctx.like.new_zeros(math.prod(shape)) if grad is None else grad.reshape(-1)
                for grad, shape in zip(grads, ctx.shapes, strict=True)]
        return torch.cat(rows).to(ctx.like.dtype), None, None


class Group:
    """Projections of one attention that read the same input: one matrix of frozen weights, one A and one B."""

    def __init__(self, names: list[str], linears: list[nn.Linear]) -> None:
        self.names, self.linears = names, linears
        self.out, self.width = linears[0].weight.shape
        self.join()
        self.down: Tensor | None = None                                        # A and B, set before every forward of the UNet
        self.up: Tensor | None = None

    def join(self) -> None:
        """Move the frozen weights into one matrix; each module keeps a view of its rows, so no memory is doubled."""
        self.weight = torch.cat([linear.weight.data for linear in self.linears])  # (n x out, in)
        for linear, rows in zip(self.linears, self.weight.split(self.out), strict=True):
            linear.weight.data = rows
        biases = [linear.bias for linear in self.linears]
        self.bias = None if biases[0] is None else torch.cat([bias.data for bias in biases])

    def joined(self) -> bool:
        """Return False after the modules were moved or cast: join() must then run again."""
        return self.linears[0].weight.data_ptr() == self.weight.data_ptr()

    def separate(self) -> None:
        """Give every module its own weight again."""
        for linear in self.linears:
            linear.weight.data = linear.weight.data.clone()

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A and B: (n, r, in) and (n, out, r)."""
        return (len(self.names), rank, self.width), (len(self.names), self.out, rank)

    def __call__(self, x: Tensor, scale: float, merged: bool) -> Tensor:
        """(..., in) -> (..., n x out)"""
        return Project.apply(x, self.down, self.up, (self.weight, self.bias), scale, merged)


class LoraAttention:
    """diffusers' AttnProcessor2_0 for a transformer block's attention, with the adapters inside its projections."""

    def __init__(self, groups: list[Group], scale: float) -> None:
        self.groups, self.scale = groups, scale
        self.merged = groups[0].weight.dtype == torch.float32 and groups[0].weight.device.type == "cpu"

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        batch = hidden_states.shape[0]
        *inputs, outward = self.groups
        if len(inputs) == 1:
            query, key, value = inputs[0](hidden_states, self.scale, self.merged).chunk(3, dim=-1)
        else:
            states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            query = inputs[0](hidden_states, self.scale, self.merged)
            key, value = inputs[1](states, self.scale, self.merged).chunk(2, dim=-1)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, key.shape[1], batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)   # (b, heads, t, d)
        mixed = outward(mixed.transpose(1, 2).flatten(2), self.scale, self.merged)
        mixed = attn.to_out[1](mixed)
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed if attn.rescale_output_factor == 1 else mixed / attn.rescale_output_factor


@dataclass
class Attached:
    """Adapters attached to a UNet. `parameters` holds the one flat fp32 parameter: group by group, A then B."""
    unet: nn.Module
    rank: int
    alpha: float
    groups: list[Group]
    parameters: list[nn.Parameter]
    processors: list[tuple[Any, Any, LoraAttention]]  # (attention, its own processor, ours)

    def __post_init__(self) -> None:
        self.shapes = tuple(shape for group in self.groups for shape in group.shapes(self.rank))
        self.hook = self.unet.register_forward_pre_hook(self._set_factors)
        for attention, _, adapted in self.processors:
            attention.processor = adapted

    def _set_factors(self, *_: object) -> None:
        """Give every group its present A and B, before each forward of the UNet."""
        for group in self.groups:
            if not group.joined():
                group.join()
        pieces = Pieces.apply(self.parameters[0], self.shapes, self.groups[0].weight.dtype)
        for group, down, up in zip(self.groups, pieces[::2], pieces[1::2], strict=True):
            group.down, group.up = down, up

    def factors(self, flat: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (module path, view of A (r, in), view of B (out, r)) for every projection."""
        cut = flat.split([math.prod(shape) for shape in self.shapes])
        views = [piece.view(shape) for piece, shape in zip(cut, self.shapes, strict=True)]
        for group, downs, ups in zip(self.groups, views[::2], views[1::2], strict=True):
            yield from zip(group.names, downs, ups, strict=True)

    def adapters(self) -> Adapters:
        """Return the present adapters as fp32 copies on the CPU."""
        flat = self.parameters[0].detach().float().cpu()
        return {name: Adapter("lora", {"down": down.clone(), "up": up.clone()}, self.alpha, self.rank, "unet")
                for name, down, up in self.factors(flat)}

    @contextmanager
    def at(self, strength: float) -> Iterator[None]:
        """Let the adapters act with another strength inside the block; with 0 the UNet predicts as before training."""
        scales = [adapted.scale for _, _, adapted in self.processors]
        for _, _, adapted in self.processors:
            adapted.scale *= strength
        try:
            yield
        finally:
            for (_, _, adapted), scale in zip(self.processors, scales, strict=True):
                adapted.scale = scale

    def detach(self) -> None:
        """Restore the UNet: processors, weights, no hook."""
        self.hook.remove()
        for attention, original, _ in self.processors:
            attention.processor = original
        for group in self.groups:
            group.separate()
        self.processors = []


def attach(unet: nn.Module, rank: int, alpha: float, seed: int) -> Attached:
    """Attach LoRA to to_q, to_k, to_v, to_out.0 of every attn1 and attn2 of a diffusers UNet, on its device.

    A is kaiming-uniform with a = sqrt(5) from `seed` (the same on every device), B zero: nothing changes before training.
    Raises ValueError when the UNet has no such attention.
    """
    groups, processors = [], []
    for name, module in unet.named_modules():
        if name.rpartition(".")[2] not in ("attn1", "attn2") or not hasattr(module, "to_q"):
            continue
        joint = [["to_q", "to_k", "to_v"]] if not module.is_cross_attention else [["to_q"], ["to_k", "to_v"]]
        own = [Group([f"{name}.{leaf}" for leaf in leaves], [cast(nn.Linear, module.get_submodule(leaf)) for leaf in leaves])
               for leaves in (*joint, ["to_out.0"])]
        groups += own
        processors.append((module, module.processor, LoraAttention(own, alpha / rank)))
    if not groups:
        raise ValueError("this network has no attention that could be adapted")
    unet.requires_grad_(False)
    flat = initial(groups, rank, seed).to(groups[0].weight.device)
    return Attached(unet, rank, float(alpha), groups, [nn.Parameter(flat)], processors)


def initial(groups: list[Group], rank: int, seed: int) -> Tensor:
    """Return the flat parameter before training, (p,) fp32 on the CPU: A uniform in +-1/sqrt(in), B zero."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for group in groups:
        down, up = group.shapes(rank)
        pieces += [(torch.rand(down, generator=generator) * 2 - 1).div_(math.sqrt(group.width)), torch.zeros(up)]
    return torch.cat([piece.flatten() for piece in pieces])
