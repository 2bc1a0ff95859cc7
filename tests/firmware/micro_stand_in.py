"""C++ that has the names of TFLite Micro's resolver, whose sources no package brings."""

from wakeword_keras.firmware.op_resolver import METHODS

_METHODS = "\n".join(
    f'  TfLiteStatus {method}() {{ return add("{method}"); }}' for method in METHODS.values()
)
RESOLVER = f"""
#pragma once
#include <cstdio>
typedef enum {{ kTfLiteOk = 0, kTfLiteError = 1 }} TfLiteStatus;
#define TF_LITE_ENSURE_STATUS(a) do {{ if ((a) != kTfLiteOk) return kTfLiteError; }} while (0)
namespace tflite {{
template <unsigned int n>
struct MicroMutableOpResolver {{
  unsigned int added = 0;
  TfLiteStatus add(const char* name) {{
    std::puts(name);
    return added++ < n ? kTfLiteOk : kTfLiteError;
  }}
{_METHODS}
}};
}}
"""
