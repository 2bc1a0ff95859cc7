/* The audio front end: 10 ms of samples in, a frame of features out. C99 and C++17, integers alone,
 * no allocation, no library; all tables are in model_settings.h. The arithmetic is that of TFLite
 * Micro's audio front end and of pymicro-features, bit for bit.
 *
 *   static wakeword_front_end front_end;
 *   wakeword_front_end_reset(&front_end);
 *   every WAKEWORD_STEP_SAMPLES samples:
 *     uint16_t frame[WAKEWORD_CHANNELS];
 *     if (wakeword_front_end_step(&front_end, samples, frame)) { ... wakeword_input(frame[i]) ... }
 */
#ifndef WAKEWORD_FRONT_END_H_
#define WAKEWORD_FRONT_END_H_

#include <stdint.h>

#include "model_settings.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int16_t real, imaginary;
} wakeword_complex;

typedef struct {
  int16_t samples[WAKEWORD_WINDOW_SAMPLES];
  uint32_t used;                     /* samples in the window */
  uint32_t noise[WAKEWORD_CHANNELS]; /* running estimate of the noise */
  /* Between the stages of a step: */
  int16_t windowed[WAKEWORD_FFT_SIZE];
  wakeword_complex half[WAKEWORD_FFT_SIZE / 2];
  uint32_t energy[WAKEWORD_FFT_SIZE / 2 + 1];
  uint32_t signal[WAKEWORD_CHANNELS];
} wakeword_front_end;

/* A front end without a past: call it before the first step and after a gap in the audio. */
void wakeword_front_end_reset(wakeword_front_end *front_end);

/* WAKEWORD_STEP_SAMPLES more samples. Returns 1 and writes WAKEWORD_CHANNELS features, or returns
 * 0 while the first window is not full. */
int wakeword_front_end_step(wakeword_front_end *front_end, const int16_t *samples,
                            uint16_t *features);

/* The model's input for a feature. */
static inline int8_t wakeword_input(uint16_t feature) {
  const uint32_t value = ((uint32_t)feature * 256u + 333u) / 666u;
  return (int8_t)((int32_t)(value < 255u ? value : 255u) - 128);
}

#ifdef __cplusplus
}
#endif

#endif /* WAKEWORD_FRONT_END_H_ */
