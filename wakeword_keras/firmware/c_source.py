"""C files as text: guarded headers, arrays, strings. All of it valid C99 and C++17."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCES = Path(__file__).with_name("c")
"""C files that a bundle takes as they are."""
_LINE = 98

ALIGN_16 = """\
/* C99 has no word for alignment. */
#if defined(__cplusplus)
#define WAKEWORD_ALIGN_16 alignas(16)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define WAKEWORD_ALIGN_16 _Alignas(16)
#elif defined(__GNUC__)
#define WAKEWORD_ALIGN_16 __attribute__((aligned(16)))
#else
#error "compile as C11 or C++11, or with gcc or clang"
#endif
"""


def header(name: str, about: str, body: str) -> str:
    """A header with its guard.

    Args:
      name: of the file, such as "model_data.h".
      about: for the comment on top.
      body: declarations.
    """
    guard = f"WAKEWORD_{name.removesuffix('.h').upper()}_H_"
    return f"/* {about} */\n#ifndef {guard}\n#define {guard}\n\n{body}\n#endif /* {guard} */\n"


def c_linkage(declarations: str) -> str:
    """Declarations that C++ shares with C."""
    return (
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        f"{declarations}\n#ifdef __cplusplus\n}}\n#endif\n"
    )


def array(declaration: str, values: NDArray | Sequence, suffix: str = "") -> str:
    """An array with its values.

    Args:
      declaration: such as "static const int16_t wakeword_window[]".
      values: integers, or their text, of up to two dimensions.
      suffix: of each number, such as "u".
    """
    rows = np.asarray(values)
    if rows.ndim == 2:
        items = ["{" + ", ".join(f"{value}{suffix}" for value in row) + "}" for row in rows]
    else:
        items = [f"{value}{suffix}" for value in rows]
    return f"{declaration} = {{\n{_filled(items)}\n}};\n"


def string(text: str) -> str:
    """A string literal; what is not plain ASCII is written as octal bytes."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return '"' + "".join(plain) + '"'


def real(value: float) -> str:
    """A float literal that reads back as the same float32."""
    text = f"{np.float32(value):.9g}"
    return f"{text if '.' in text or 'e' in text else text + '.0'}f"


def _filled(items: list[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > _LINE:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line])
