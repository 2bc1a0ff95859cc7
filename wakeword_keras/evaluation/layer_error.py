"""Which layer quantization hurts: FP32 against dequantized INT8, tensor by tensor, same clips.

Two errors of every layer. The *accumulated* one compares its INT8 output with that of the FP32
model, all that went wrong before it included. Its *own* one compares it with what the float layer
makes of the very tensors that the INT8 layer read; it blames the layer that errs, not those behind
it, and ranks them.

Both graphs come from one architecture, so their operators stand in the same order. They are paired
by operator, fused activation and output shape along that order, equal layer names deciding between
several ways (a global alignment, Needleman and Wunsch 1970); what finds no partner is listed.
INT8 runs on the reference kernels, the arithmetic nearest to a microcontroller's.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MIN, Affine, dequantize, quantize
from wakeword_keras.data.recordings import few
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.flatbuffer import Graph
from wakeword_keras.tflite.interpreter import device_kernels, open_interpreter
from wakeword_keras.tflite.layer_outputs import LayerOutput, align, layer_outputs

MAX_DB = 200.0
"""SQNR of a layer without any error; -200 of one that has no signal to be right about."""
_SOUND_DB = 30.0  # healthy layers of our models keep 33 to 50 dB
_CODES = 256


@dataclass(frozen=True)
class LayerError:
    """One tensor that an INT8 layer writes, over all clips.

    Attributes:
      layer: name of the Keras layer, of the one with the weights where several are fused.
      operator: of TFLite, such as "CONV_2D"; "INPUT" is the quantized input.
      position: in the order of the graph, the input being 0.
      sqnr_db: power of the FP32 tensor over that of the difference to it, in dB, within +-200.
      own_sqnr_db: the same signal over the difference to the float layer fed with the INT8 layer's
        inputs. The signal stays FP32's: behind a broken layer there may be hardly any.
      cosine: between the FP32 and the INT8 tensor; 1.0 where both are zero.
      saturated: share of values that int8 cannot hold: the float layer, fed the same, is more
        than half a step outside the range. The zeros of a ReLU, exact at -128, are not saturated.
      at_limits: share of values that are -128 or 127, whatever the reason.
      range_use: share of the 256 codes from the lowest to the highest that occurs.
      bulk_use: the same for the middle 99.8 % of the values: outliers left out.
      channel_spread: highest peak of a channel over the median channel's, >= 1.
      rounding_share: of the own error, what rounding the output to whole steps makes (step^2 / 12,
        Widrow and Kollar 2008), at most 1; the rest is weights, clipping and fine-tuning.
      scale, zero_point: of the INT8 tensor.
      values: compared.
      hint: what to try, "" where nothing needs it.
    """

    layer: str
    operator: str
    position: int
    sqnr_db: float
    own_sqnr_db: float
    cosine: float
    saturated: float
    at_limits: float
    range_use: float
    bulk_use: float
    channel_spread: float
    rounding_share: float
    scale: float
    zero_point: int
    values: int
    hint: str = ""


@dataclass(frozen=True)
class LayerErrors:
    """Layers by own error, the one to blame first; operators without a partner; clips compared."""

    layers: tuple[LayerError, ...]
    unmatched_fp32: tuple[str, ...]
    unmatched_int8: tuple[str, ...]
    clips: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "clips": self.clips,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "unmatched_fp32": list(self.unmatched_fp32),
            "unmatched_int8": list(self.unmatched_int8),
        }

    def in_order(self) -> tuple[LayerError, ...]:
        """The layers in the order of the graph."""
        return tuple(sorted(self.layers, key=lambda layer: layer.position))


def layer_errors(
    fp32_path: str | os.PathLike,
    int8_path: str | os.PathLike,
    features: NDArray[np.float32],
    clips: int = 64,
) -> LayerErrors:
    """Compare every layer of an INT8 model with its FP32 model on the same clips.

    Args:
      fp32_path: float .tflite. For a model fine-tuned by QAT the difference to FP32 holds what
        fine-tuning changed; give the float twin of the QAT model to see quantization alone.
      int8_path: fully INT8 .tflite of the same architecture, batch 1.
      features: float32 [n, frames, channels], n > 0.
      clips: how many of them to compare, spread evenly.

    Returns:
      LayerErrors.

    Raises:
      InputError: a file is missing, of the other kind (swapped) or of another architecture; no
        clips, or of another shape.
    """
    _check_kinds(fp32_path, int8_path)
    fp32, int8 = (flatbuffer.read_graph(path) for path in (fp32_path, int8_path))
    shapes = [graph.tensors[graph.inputs[0]].shape for graph in (fp32, int8)]
    if not len(features) or features.shape[1:] != shapes[1][1:]:
        raise InputError(
            f"{int8_path}: takes features {list(shapes[1][1:])} per clip, got "
            f"{len(features)} of {list(features.shape[1:])}"
        )
    outputs = [layer_outputs(graph) for graph in (fp32, int8)]
    pairs = align(*outputs)
    if not pairs or shapes[0] != shapes[1]:
        raise InputError(f"{int8_path}: no layer in common with {fp32_path}: other architectures")
    chosen = features[np.unique(np.linspace(0, len(features) - 1, clips).round().astype(int))]
    compared = (int8.inputs[0], *(b.tensor for _, b in pairs))
    affines = {t: flatbuffer.int8_affine(int8.tensors[t], int8_path) for t in compared}
    tallies = _compare(fp32, int8, pairs, affines, chosen)
    found = [tallies[int8.inputs[0]].error("input", "INPUT", 0)]
    found += [
        tallies[b.tensor].error(_display_name(a, i), b.kind, i + 1)
        for i, (a, b) in enumerate(pairs)
    ]
    return LayerErrors(
        tuple(sorted((_with_hint(error) for error in found), key=lambda e: e.own_sqnr_db)),
        _unmatched(outputs[0], {a.tensor for a, _ in pairs}),
        _unmatched(outputs[1], {b.tensor for _, b in pairs}),
        len(chosen),
    )


def table(errors: LayerErrors, rows: int = 10) -> str:
    """The worst layers as text, then what could not be compared.

    Args:
      errors: from `layer_errors`.
      rows: how many layers to show.

    Returns:
      Lines without a newline at the end.
    """
    lines = [
        f"{'layer to blame':<26}{'operator':<18}{'own dB':>7}{'SQNR dB':>8}{'cosine':>8}"
        f"{'sat. %':>7}{'range':>6}"
    ]
    for e in errors.layers[:rows]:
        lines.append(
            f"{e.layer[-25:]:<26}{e.operator:<18}{e.own_sqnr_db:>7.1f}{e.sqnr_db:>8.1f}"
            f"{e.cosine:>8.4f}{100 * e.saturated:>7.2f}{100 * e.range_use:>5.0f}%"
        )
        if e.hint:
            lines.append(f"    {e.hint}")
    for name, missing in (("FP32", errors.unmatched_fp32), ("INT8", errors.unmatched_int8)):
        if missing:
            lines.append(f"{name} operators without a partner: {few(missing)}")
    return "\n".join([*lines, f"{errors.clips} clips, {len(errors.layers)} layers compared"])


def _check_kinds(fp32_path: str | os.PathLike, int8_path: str | os.PathLike) -> None:
    for path, kind, foreign in ((fp32_path, "float", "INT8"), (int8_path, "INT8", "FLOAT32")):
        tensors = flatbuffer.tensor_types(path).get(foreign)
        if tensors:
            raise InputError(
                f"{path}: given as the {kind} model but holds {len(tensors)} {foreign} tensors "
                f"such as {tensors[0]!r}: are two files swapped?"
            )


def _unmatched(outputs: Sequence[LayerOutput], matched: set[int]) -> tuple[str, ...]:
    return tuple(output.label for output in outputs if output.tensor not in matched)


def _display_name(output: LayerOutput, index: int) -> str:
    return output.layers[0] if output.layers else f"{output.kind.lower()}_{index}"


def _cut(graph: Graph, tensors: Sequence[int]) -> tuple[Graph, dict[int, int]]:
    """The float graph with every reader of the given tensors reading an input of its own instead.

    Args:
      graph: of the float model.
      tensors: written by its operators; they become the outputs, in this order.

    Returns:
      The graph, and the index of the new input that stands for each tensor.
    """
    given = {tensor: len(graph.tensors) + place for place, tensor in enumerate(tensors)}
    new = [
        dataclasses.replace(graph.tensors[tensor], name=f"{graph.tensors[tensor].name}/given")
        for tensor in tensors
    ]
    cut = dataclasses.replace(
        graph,
        tensors=(*graph.tensors, *new),
        operators=tuple(
            dataclasses.replace(op, inputs=tuple(given.get(index, index) for index in op.inputs))
            for op in graph.operators
        ),
        inputs=(*graph.inputs, *given.values()),
        outputs=tuple(tensors),
    )
    return cut, given


def _compare(
    fp32: Graph,
    int8: Graph,
    pairs: Sequence[tuple[LayerOutput, LayerOutput]],
    affines: Mapping[int, Affine],
    features: NDArray[np.float32],
) -> dict[int, "_Tally"]:
    """Run both graphs and the cut one clip by clip; tallies by INT8 tensor."""
    partner = {b.tensor: a.tensor for a, b in pairs}
    cut, given = _cut(fp32, list(partner.values()))
    kernels = device_kernels(op.kind for op in int8.operators)
    whole = open_interpreter(flatbuffer.write([fp32]), "optimized", keep_tensors=True)
    fed = open_interpreter(flatbuffer.write([cut]), "optimized", keep_tensors=True)
    quantized = open_interpreter(flatbuffer.write([int8]), kernels, keep_tensors=True)
    (fp32_input,), (int8_input,) = fp32.inputs, int8.inputs
    tallies = {t: _Tally(affine) for t, affine in affines.items()}
    source = affines[int8_input]
    for clip in features[:, np.newaxis]:
        codes = quantize(clip, source)
        for interpreter, tensor, values in (
            (whole, fp32_input, clip),
            (quantized, int8_input, codes),
        ):
            interpreter.set_tensor(tensor, values)
            interpreter.invoke()
        written = {t: quantized.get_tensor(t) for t in partner}
        fed.set_tensor(fp32_input, dequantize(codes, source))
        for t, target in partner.items():
            fed.set_tensor(given[target], dequantize(written[t], affines[t]))
        fed.invoke()
        tallies[int8_input].add(codes, clip, clip)
        for t, target in partner.items():
            tallies[t].add(written[t], whole.get_tensor(target), fed.get_tensor(target))
    return tallies


class _Tally:
    """Sums over clips, so that no tensor is kept."""

    def __init__(self, affine: Affine):
        self.affine = affine
        # FP32 squared, difference to it squared, INT8 squared, product of both, own error squared.
        self.sums = np.zeros(5)
        self.outside = 0
        self.codes = np.zeros(_CODES, np.int64)
        self.peaks: NDArray[np.float64] | float = 0.0

    def add(self, codes: NDArray[np.int8], fp32: NDArray, own: NDArray) -> None:
        """Count one clip's tensor: int8, FP32, and float from the INT8 layer's inputs."""
        real = dequantize(codes, self.affine).astype(np.float64)
        fp32, own = fp32.astype(np.float64), own.astype(np.float64)
        # Such as 1 / sqrt of what int8 rounds below zero: as far off as that of zero.
        own = np.where(np.isnan(own), np.inf, own)
        products = (
            (fp32, fp32),
            (real - fp32, real - fp32),
            (real, real),
            (real, fp32),
            (real - own, real - own),
        )
        # Not a BLAS product: its threads would wait for a busy machine's cores.
        self.sums += [np.einsum("i,i", a.ravel(), b.ravel()) for a, b in products]
        half = self.affine.scale / 2
        beyond = (own < self.affine.low - half) | (own > self.affine.high + half)
        self.outside += int(np.count_nonzero(beyond))
        self.codes += np.bincount(codes.ravel().astype(np.int64) - INT8_MIN, minlength=_CODES)
        self.peaks = np.maximum(self.peaks, np.abs(own).reshape(-1, own.shape[-1]).max(axis=0))

    def error(self, layer: str, operator: str, position: int) -> LayerError:
        """The figures of the layer."""
        fp32, difference, int8, product, own_error = (float(s) for s in self.sums)
        values = int(self.codes.sum())
        norm = np.sqrt(fp32 * int8)
        # Channels that are dead, up to half the others, or infinite say nothing of the spread.
        peaks = np.asarray(self.peaks)
        alive = peaks[(peaks > 0) & np.isfinite(peaks)]
        rounding = values * self.affine.scale**2 / 12
        return LayerError(
            layer=layer,
            operator=operator,
            position=position,
            sqnr_db=_decibels(fp32, difference),
            own_sqnr_db=_decibels(fp32, own_error),
            cosine=float(np.clip(product / norm, -1, 1)) if norm else float(fp32 == int8),
            saturated=self.outside / values,
            at_limits=float(self.codes[[0, -1]].sum() / values),
            range_use=_width(self.codes, 0.0),
            bulk_use=_width(self.codes, 0.001),
            channel_spread=float(alive.max() / np.median(alive)) if alive.size else 1.0,
            rounding_share=min(1.0, rounding / own_error) if own_error else 1.0,
            scale=self.affine.scale,
            zero_point=self.affine.zero_point,
            values=values,
        )


def _decibels(signal: float, error: float) -> float:
    if not error:
        return MAX_DB
    if not signal or np.isinf(error):
        return -MAX_DB
    return float(np.clip(10 * np.log10(signal / error), -MAX_DB, MAX_DB))


def _width(codes: NDArray[np.int64], tail: float) -> float:
    """Share of the codes from the quantile `tail` to `1 - tail`, both ends counted."""
    share = np.cumsum(codes) / codes.sum()
    low, high = np.searchsorted(share, tail, "right"), np.searchsorted(share, 1 - tail - 1e-12)
    return float(high - low + 1) / _CODES


def _with_hint(error: LayerError) -> LayerError:
    """Say what to try where a layer's own error stands out of what 8 bits cost anyway."""
    hint = ""
    if error.own_sqnr_db >= _SOUND_DB:
        return error
    if error.saturated > 0.001:
        hint = (
            f"{100 * error.saturated:.2f} % of its values do not fit its range: calibrate on more "
            "clips, or on a higher percentile"
        )
    elif error.range_use < 0.5:
        hint = (
            f"uses {100 * error.range_use:.0f} % of its codes: its range is wider than its values; "
            "calibrate again on clips like these"
        )
    elif error.rounding_share < 0.25:
        hint = (
            "its weights differ from the float ones by more than rounding its output explains: "
            "check their scales, quantize per channel, or compare with the QAT model's float twin"
        )
    elif error.channel_spread > 8 and "CONV" in error.operator:
        hint = (
            f"its loudest channel is {error.channel_spread:.0f} times the median one: equalise "
            "channels (Nagel et al. 2019), or clamp with ReLU6"
        )
    elif error.bulk_use < 0.5:
        hint = (
            f"99.8 % of its values use {100 * error.bulk_use:.0f} % of its codes: outliers stretch "
            "its range; calibrate on a percentile, or clamp with ReLU6"
        )
    return dataclasses.replace(error, hint=hint)
