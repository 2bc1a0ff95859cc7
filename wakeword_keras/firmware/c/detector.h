/* When a wake word is detected: smoothing, threshold and refractory time. C99 and C++17, integers
 * alone, no allocation, no library. Same decisions as the report's.
 *
 *   wakeword_detector detector;
 *   wakeword_detector_reset(&detector);
 *   every WAKEWORD_STRIDE_MS:
 *     int word = wakeword_detector_step(&detector, output->data.int8);
 *     if (word >= 0) { wakeword_names[word] was said }
 */
#ifndef WAKEWORD_DETECTOR_H_
#define WAKEWORD_DETECTOR_H_

#include <stdint.h>

#include "model_settings.h"

typedef struct {
  int8_t history[WAKEWORD_AVERAGE_STEPS][WAKEWORD_COUNT]; /* the last outputs, in a ring */
  uint32_t sums[WAKEWORD_COUNT];                          /* of their probabilities */
  uint32_t next;                                          /* place in the ring */
  uint32_t filled;                                        /* outputs in the ring */
  uint32_t quiet_steps;                                   /* until the next detection can be */
  uint32_t warm_up_steps;                                 /* until outputs count */
} wakeword_detector;

/* Forget everything: call it before the first step and after a gap in the audio. The states of a
 * streaming model need not be put back: the outputs that do not count outlast what they held. */
static inline void wakeword_detector_reset(wakeword_detector *detector) {
  int word;
  for (word = 0; word < WAKEWORD_COUNT; ++word) detector->sums[word] = 0;
  detector->next = 0;
  detector->filled = 0;
  detector->quiet_steps = 0;
  detector->warm_up_steps = WAKEWORD_WARM_UP_STEPS;
}

/* Probability of a model output, in units of 1 / WAKEWORD_PROBABILITY_ONE. */
static inline uint32_t wakeword_probability(int8_t output) {
  return wakeword_probability_table[(int)output + 128];
}

/* One output of the model for each wake word. Returns the index of the wake word that is detected
 * now, or -1. Before the ring is full, the missing outputs count as probability 0, and so do the
 * first WAKEWORD_WARM_UP_STEPS of a streaming model. */
static inline int wakeword_detector_step(wakeword_detector *detector, const int8_t *outputs) {
  /* A variable, because compilers warn of comparing an unsigned number with 0. */
  const uint32_t least = WAKEWORD_THRESHOLD_SUM;
  int8_t *oldest = detector->history[detector->next];
  int word, best = 0;
  if (detector->warm_up_steps > 0) {
    --detector->warm_up_steps;
    return -1;
  }
  for (word = 0; word < WAKEWORD_COUNT; ++word) {
    if (detector->filled == WAKEWORD_AVERAGE_STEPS) {
      detector->sums[word] -= wakeword_probability(oldest[word]);
    }
    oldest[word] = outputs[word];
    detector->sums[word] += wakeword_probability(outputs[word]);
    if (detector->sums[word] > detector->sums[best]) best = word;
  }
  if (detector->filled < WAKEWORD_AVERAGE_STEPS) ++detector->filled;
  detector->next = (detector->next + 1) % WAKEWORD_AVERAGE_STEPS;
  if (detector->quiet_steps > 0) {
    --detector->quiet_steps;
    return -1;
  }
  if (detector->sums[best] < least) return -1;
  detector->quiet_steps = WAKEWORD_REFRACTORY_STEPS - 1;
  return best;
}

/* A clip alone, by the output of its first full window: the index of its wake word, or -1. */
static inline int wakeword_of_clip(const int8_t *outputs) {
  int word, best = 0, largest;
  for (word = 1; word < WAKEWORD_COUNT; ++word) {
    if (outputs[word] > outputs[best]) best = word;
  }
  largest = outputs[best]; /* an int, because compilers warn of comparing an int8_t with -128 */
  return largest >= WAKEWORD_CLIP_THRESHOLD_INT8 ? best : -1;
}

#endif /* WAKEWORD_DETECTOR_H_ */
