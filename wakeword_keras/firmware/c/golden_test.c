/* Does this build compute as training did? On a PC, from the bundle's folder:
 *
 *   cc -std=c99 -Wall -Wextra -I. golden_test.c front_end.c model_data.c golden/golden.c
 *      golden/golden_audio.c -o golden_test && ./golden_test
 *
 * On a device: the same files. Where flash is short, leave out golden_audio.c and define
 * WAKEWORD_WITHOUT_AUDIO. To compare the model's outputs too, define WAKEWORD_WITH_MODEL and write
 * wakeword_run(), which copies the input into the interpreter's, invokes it, copies the output out
 * and returns 0. For a streaming model write wakeword_begin() too, which puts its states back to
 * their beginning (a new interpreter, see README.md) and returns 0. CMSIS-NN and ESP-NN may differ by
 * a step from the reference kernels: define WAKEWORD_MODEL_STEPS as what you accept, 0 if you do not.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "detector.h"
#include "golden/golden.h"
#include "model_data.h"
#ifdef WAKEWORD_FIRST_BIN
#include "front_end.h"
#endif

#ifndef WAKEWORD_MODEL_STEPS
#define WAKEWORD_MODEL_STEPS 0
#endif

static int check(const char *what, int wrong) {
  printf("%-52s %s", what, wrong ? "FAILED" : "ok");
  if (wrong) printf(" (%d wrong)", wrong);
  printf("\n");
  return wrong ? 1 : 0;
}

static int check_model(void) {
  int wrong = (uintptr_t)wakeword_model % 16 != 0;
  wrong += wakeword_model_len < 8 || memcmp(wakeword_model + 4, "TFL3", 4) != 0;
  return check("model is aligned to 16 bytes and a TFLite file", wrong);
}

/* The thresholds as integers decide as their probabilities do. */
static int check_thresholds(void) {
  const double one = WAKEWORD_PROBABILITY_ONE;
  const double sum = (double)WAKEWORD_THRESHOLD_PROBABILITY * one * WAKEWORD_AVERAGE_STEPS;
  /* A probability of float precision is off by up to one in 2^24. */
  const double least = (double)WAKEWORD_CLIP_THRESHOLD_PROBABILITY * one;
  int value, wrong = 0;
  wrong += sum - WAKEWORD_THRESHOLD_SUM > WAKEWORD_AVERAGE_STEPS + 1;
  wrong += WAKEWORD_THRESHOLD_SUM - sum > WAKEWORD_AVERAGE_STEPS + 1;
  for (value = -128; value < 128; ++value) {
    const double probability = wakeword_probability((int8_t)value);
    wrong += value > -128 && probability < wakeword_probability((int8_t)(value - 1));
    wrong += probability > one;
    wrong += value >= WAKEWORD_CLIP_THRESHOLD_INT8 ? probability < least - 2 : probability > least + 2;
  }
  return check("thresholds: integers decide as probabilities", wrong);
}

static int check_detector(void) {
  static wakeword_detector detector;
  int pass, step, wrong = 0;
  for (pass = 0; pass < 2; ++pass) { /* the second one after a reset */
    wakeword_detector_reset(&detector);
    for (step = 0; step < WAKEWORD_GOLDEN_STEPS; ++step) {
      const int word = wakeword_detector_step(&detector, wakeword_golden_stream[step]);
      wrong += word != wakeword_golden_detected[step];
    }
  }
  return check("detector: smoothing, threshold, refractory time", wrong);
}

static void print_clips(void) {
  int clip;
  for (clip = 0; clip < WAKEWORD_GOLDEN_CLIPS; ++clip) {
    const int last = (clip + 1) * WAKEWORD_GOLDEN_RUNS - 1;
    const int word = wakeword_of_clip(wakeword_golden_outputs[last]);
    printf("  %-16s %s\n", wakeword_golden_names[clip], word < 0 ? "-" : wakeword_names[word]);
  }
}

#if defined(WAKEWORD_FIRST_BIN) && !defined(WAKEWORD_WITHOUT_AUDIO)
static int check_front_end(void) {
  static wakeword_front_end front_end;
  static uint16_t frame[WAKEWORD_CHANNELS];
  int clip, at, i, wrong = 0, wrong_inputs = 0;
  for (clip = 0; clip < WAKEWORD_GOLDEN_CLIPS; ++clip) {
    const int16_t *audio = wakeword_golden_audio[clip];
    const uint16_t *features = wakeword_golden_features[clip];
    const int8_t *input = wakeword_golden_inputs[clip * WAKEWORD_GOLDEN_RUNS];
    int frames = 0;
    wakeword_front_end_reset(&front_end);
    for (at = 0; at + WAKEWORD_STEP_SAMPLES <= WAKEWORD_GOLDEN_SAMPLES; at += WAKEWORD_STEP_SAMPLES) {
      if (!wakeword_front_end_step(&front_end, audio + at, frame)) continue;
      for (i = 0; i < WAKEWORD_CHANNELS; ++i) {
        wrong += frame[i] != *features++;
        wrong_inputs += wakeword_input(frame[i]) != *input++;
      }
      ++frames;
    }
    wrong += frames != WAKEWORD_GOLDEN_RUNS * WAKEWORD_INPUT_FRAMES;
  }
  return check("front end: features of all clips", wrong) +
         check("input: features as int8", wrong_inputs);
}
#endif

#ifdef WAKEWORD_WITH_MODEL
#ifdef __cplusplus
extern "C" {
#endif
int wakeword_begin(void);
int wakeword_run(const int8_t *input, int8_t *output);
#ifdef __cplusplus
}
#endif

static int check_outputs(void) {
  int8_t output[WAKEWORD_COUNT];
  int row, word, wrong = 0;
  for (row = 0; row < WAKEWORD_GOLDEN_CLIPS * WAKEWORD_GOLDEN_RUNS; ++row) {
#ifdef WAKEWORD_VARIABLES
    if (row % WAKEWORD_GOLDEN_RUNS == 0 && wakeword_begin()) ++wrong;
#endif
    if (wakeword_run(wakeword_golden_inputs[row], output)) ++wrong;
    for (word = 0; word < WAKEWORD_COUNT; ++word) {
      const int off = (int)output[word] - wakeword_golden_outputs[row][word];
      wrong += off > WAKEWORD_MODEL_STEPS || -off > WAKEWORD_MODEL_STEPS;
    }
  }
  return check("model: outputs of all clips", wrong);
}
#endif

int main(void) {
  int failed = check_model() + check_thresholds() + check_detector();
#if defined(WAKEWORD_FIRST_BIN) && !defined(WAKEWORD_WITHOUT_AUDIO)
  failed += check_front_end();
#endif
#ifdef WAKEWORD_WITH_MODEL
  failed += check_outputs();
#endif
  print_clips();
  if (failed) {
    printf("%d checks FAILED\n", failed);
    return 1;
  }
  printf("all checks passed\n");
  return 0;
}
