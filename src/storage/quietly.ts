// What the kernel or a library tells where it can. That it does not is no error: a process has gone or is another
// user's, a container shows less of /proc and /sys, an older C library lacks a call. Whoever asks says what holds then.

export function quietly<T, Else>(look: () => T, otherwise: Else): T | Else {
  try {
    return look();
  } catch {
    return otherwise;
  }
}
