/* A Cortex-M from reset to main(), output and exit code by semihosting. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;
extern void initialise_monitor_handles(void);
extern int main(void);

void reset(void) {
  uint32_t *from = &data_load, *to;
  for (to = &data_start; to < &data_end;) *to++ = *from++;
  for (to = &bss_start; to < &bss_end;) *to++ = 0;
  initialise_monitor_handles();
  exit(main());
}

static void fault(void) { exit(3); }

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))(uintptr_t)&stack_top, reset, fault, fault, fault, fault, fault};
