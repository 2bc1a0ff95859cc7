"""The bundle's README.md: from the bundle to a blinking LED, and every number for people."""

from collections.abc import Mapping
from typing import Any

_PROGRAM = """\
```cpp
#include <cstring>

#include "tensorflow/lite/micro/micro_interpreter.h"
{variables_include}#include "detector.h"
{include}#include "model_data.h"
#include "op_resolver.h"

alignas(16) static uint8_t arena[WAKEWORD_ARENA_BYTES];
static tflite::MicroMutableOpResolver<WAKEWORD_OPERATORS> resolver;
static tflite::MicroInterpreter* interpreter;
static int8_t window[WAKEWORD_INPUT_FRAMES][WAKEWORD_CHANNELS];  // the newest frames, oldest first
static int frames;  // after a gap in the audio: 0, and both resets of setup()
static wakeword_detector detector;
{state}
void setup() {{
  WakewordAddOperators(resolver);
{built}  interpreter = &built;
  if (interpreter->AllocateTensors() != kTfLiteOk) for (;;) {{}}  // the arena is too small
  wakeword_detector_reset(&detector);
{reset}}}

void every_step(const int16_t* samples) {{  // {step_ms} ms: WAKEWORD_STEP_SAMPLES, {rate} Hz, mono
{features}  memmove(window, window[1], sizeof(window) - sizeof(window[0]));
  for (int i = 0; i < WAKEWORD_CHANNELS; ++i) window[WAKEWORD_INPUT_FRAMES - 1][i] = {input};
  if (++frames < WAKEWORD_INPUT_FRAMES) return;
  frames -= WAKEWORD_STRIDE_FRAMES;  // runs again when so many more have come
  memcpy(interpreter->input(0)->data.int8, window, sizeof(window));
  if (interpreter->Invoke() != kTfLiteOk) return;
  if (wakeword_detector_step(&detector, interpreter->output(0)->data.int8) >= 0) led_on();
}}
```"""
_BUILT = """\
  static tflite::MicroInterpreter built(tflite::GetModel(wakeword_model), resolver, arena,
                                        sizeof(arena));
"""
_BUILT_WITH_VARIABLES = """\
  tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, sizeof(arena));
  tflite::MicroResourceVariables* variables =
      tflite::MicroResourceVariables::Create(allocator, WAKEWORD_VARIABLES);  // the model's states
  static tflite::MicroInterpreter built(tflite::GetModel(wakeword_model), resolver, allocator,
                                        variables);
"""
_VARIABLES_INCLUDE = """\
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
"""


def readme(manifest: Mapping[str, Any]) -> str:
    """README.md of a bundle.

    Args:
      manifest: without hashes of files.
    """
    parts = [
        "# Wake word model\n\n`manifest.json` holds every number below for programs "
        "(`manifest.schema.json` says what it may hold).",
        *_missing(manifest),
        *_check(manifest),
        f"## Build it\n{_build(manifest)}",
        f"## Feed it\n{_feed(manifest)}",
        *_states(manifest),
        f"## Read it\n{_read(manifest)}",
        f"## What it costs\n{_cost(manifest)}",
        *_golden(manifest),
        "## Licences\n" + "\n".join(f"- {what}: {says}" for what, says in _licences(manifest)),
    ]
    return "\n\n".join(parts) + "\n"


def _licences(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted(manifest["licence"].items())


def _missing(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest["missing"]:
        return []
    return ["**Not in this bundle:** " + "; ".join(manifest["missing"]) + "."]


def _check(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest["golden"]:
        return []
    micro = manifest["front_end"]["kind"] == "micro"
    sources = ["model_data.c", "golden/golden.c"]
    sources += ["front_end.c", "golden/golden_audio.c"] if micro else []
    command = f"cc -std=c99 -I. golden_test.c {' '.join(sources)} -o golden_test && ./golden_test"
    return [
        "## Check it on a PC\nA C compiler is enough; run this in the bundle's folder:\n\n"
        f"```\n{command}\n```\n\n"
        "`all checks passed` is the last line. The same test runs on the device: its first comment "
        "says how, and how it compares the model's outputs there."
    ]


def _build(manifest: Mapping[str, Any]) -> str:
    model, micro = manifest["model"], manifest["front_end"]["kind"] == "micro"
    program = _PROGRAM.format(
        rate=manifest["front_end"]["sample_rate_hz"],
        step_ms=manifest["front_end"]["step_ms"],
        include='#include "front_end.h"\n' if micro else "",
        variables_include=_VARIABLES_INCLUDE if manifest["streaming"] else "",
        built=_BUILT_WITH_VARIABLES if manifest["streaming"] else _BUILT,
        state="static wakeword_front_end front_end;\n" if micro else "",
        reset="  wakeword_front_end_reset(&front_end);\n" if micro else "",
        features=(
            "  uint16_t frame[WAKEWORD_CHANNELS];\n"
            "  if (!wakeword_front_end_step(&front_end, samples, frame)) return;\n"
            if micro
            else "  // features[]: your front end\n"
        ),
        input="wakeword_input(frame[i])" if micro else "quantized(features[i])",
    )
    sources = "`model_data.c` and `front_end.c`" if micro else "`model_data.c`"
    return (
        f"Add {sources} to a project that has TFLite Micro, and:\n\n{program}\n\n"
        f"`model_data.c` holds `{model['file']}` ({model['bytes']} bytes), aligned to 16. "
        "The interpreter's resolver needs exactly what `op_resolver.h` adds: "
        f"{', '.join(model['operators'])}."
    )


def _feed(manifest: Mapping[str, Any]) -> str:
    model, front_end = manifest["model"], manifest["front_end"]
    _, frames, channels = model["input"]["shape"]
    to_int8 = front_end.get("feature_to_int8")
    quantized = (
        f"as int8: `{to_int8}`, all integers, from the front end's uint16"
        if to_int8
        else "as int8: `round(feature / scale) + zero_point`, saturating"
    )
    tables = (
        "\n\n`front_end.c` computes the features of training bit for bit on every chip. TFLite "
        "Micro's own front end does so only with the tables of `model_settings.h`: it fills them "
        "with the C library's `cosf`, `log1pf` and `powf`, whose last bit differs. Copy "
        "`wakeword_window`, `wakeword_weights`, `wakeword_unweights` and `wakeword_gain` over its "
        "own after `FrontendPopulateState`."
        if to_int8
        else ""
    )
    rows = f"Gather {frames} new rows" if manifest["streaming"] else f"Keep the last {frames} rows"
    covered = "" if manifest["streaming"] else f" ({manifest['clip_ms']} ms of audio)"
    return (
        f"1. Audio: {front_end['sample_rate_hz']} Hz, mono, int16.\n"
        f"2. Front end `{front_end['kind']}`: one row of {channels} features every "
        f"{front_end['step_ms']} ms; keep its state between rows.\n"
        f"3. {rows}{covered}, oldest first, "
        f"{quantized}.\n"
        f"4. Invoke: input int8 {model['input']['shape']}, output int8 "
        f"{model['output']['shape']}.{tables}"
    )


def _states(manifest: Mapping[str, Any]) -> list[str]:
    streaming = manifest["streaming"]
    if not streaming:
        return []
    frames, warm_up = streaming["window_frames"], manifest["listening"]["warm_up_steps"]
    return [
        f"""\
## Its states
The model keeps what it has computed in {streaming["variables"]} states, \
{streaming["state_bytes"]} bytes of the arena, and computes new frames alone. An output \
speaks of the last {frames} frames ({manifest["clip_ms"]} ms of audio, up to a whole step), so \
the first {warm_up} of a stream mean nothing; `wakeword_detector_step` passes over them after each \
`wakeword_detector_reset`.

Reset: {streaming["reset"]}."""
    ]


def _read(manifest: Mapping[str, Any]) -> str:
    output, threshold = manifest["model"]["output"], manifest["threshold"]
    clip, rule = manifest["clip_threshold"], manifest["listening"]
    words = "\n".join(f"- output {i}: {word}" for i, word in enumerate(manifest["wake_words"]))
    return f"""\
{words}

A logit is `scale * (value - zero_point)` with scale {output["scale"]:.9g} and zero point \
{output["zero_point"]}; the model has no sigmoid inside. `wakeword_probability_table` is the \
sigmoid of each of the 256 values, in units of 1/{rule["probability_one"]}.

- In a stream (`wakeword_detector_step`): invoke every {rule["stride_ms"]} ms and keep, for each \
output, the sum of its probabilities over the last {rule["windows"]} values (0 before the first). \
The largest sum is a detection if it is at least **{rule["threshold_sum"]}** (average \
{threshold["probability"]:.6g}, chosen on {threshold["chosen_on"]}); then nothing is for \
{rule["refractory_ms"]} ms. Sums fit 32 bits, unsigned.
- On a clip alone (`wakeword_of_clip`): the largest value is a detection if it is at least \
**{clip["int8"]}** (logit {clip["logit"]:.4f}, probability {clip["probability"]:.4g})."""


def _cost(manifest: Mapping[str, Any]) -> str:
    cost, arena, rule = manifest["cost"], manifest["arena"], manifest["listening"]
    rows = "\n".join(
        f"| {name} | {row['clock_mhz']:g} | {row['cycles_per_mac']:.2f} | {row['ms']:.1f} | "
        f"{100 * row['share_of_time']:.0f} % | {row['least_stride_ms']} | {row['source']} |"
        for name, row in cost["estimates"].items()
    )
    memory = (
        f"- Arena: {arena['smallest_bytes']} bytes are the least that it runs in, measured with "
        "TFLite Micro on a PC, whose pointers are twice as long as a microcontroller's; "
        f"**{arena['recommended_bytes']}** are recommended: {arena['margin']}. ESP-NN keeps a "
        "depthwise layer's input as int16 in memory of its own: on an ESP32-S3 add about "
        f"{arena['esp_nn_scratch_bytes']} bytes.\n"
        if arena
        else ""
    )
    return f"""\
- Flash: {cost["flash_bytes"]} bytes for the model; TFLite Micro's code and kernels come on top.
{memory}\
- {cost["macs"]:,} multiply-accumulates a run, {cost["macs_per_s"]:,} a second at a run every \
{rule["stride_ms"]} ms; {cost["parameters"]:,} parameters.

Estimated, not measured:

| device | MHz | cycles per MAC | ms a run | of the time | keeps up with a run every, ms | from |
|---|---|---|---|---|---|---|
{rows}

{cost["formula"]}. Where more than 100 % of the time is needed, the device does not keep up with a \
run every {rule["stride_ms"]} ms, with which threshold and report were made: take a smaller model, \
a faster chip, or a longer stride, and measure again."""


def _golden(manifest: Mapping[str, Any]) -> list[str]:
    golden = manifest["golden"]
    if not golden:
        return []
    against = ", ".join(
        f"at most {row['max_lsb']} steps of the output from {name.upper()} "
        f"({100 * row['equal']:.1f} % equal)"
        for name, row in golden["tflite_micro_against"].items()
    )
    steps = (
        f"; input and output of {golden['runs']} steps each, the states cold before the first"
        if manifest["streaming"]
        else ""
    )
    return [
        f"## Golden vectors\n`golden/` holds {len(golden['clips'])} clips (wav, features, input, "
        f"output; raw little-endian numbers{steps}) and a stream of {golden['stream']['steps']} "
        f"outputs with its {golden['stream']['detections']} detections. Outputs are TFLite "
        f"Micro's, with its reference kernels: {against}."
    ]
