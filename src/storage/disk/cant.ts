// Names of errors that say: the file system, the kernel or a rule can't do it this way. What is then done is each
// caller's own.

const COPY = ["EXDEV", "EINVAL", "ENOSYS", "ENOTSUP", "EPERM"];

const setOf = (...codes: readonly string[]): ReadonlySet<string> => new Set(codes);

export const CANT = {
  copy: setOf(...COPY),
  clone: setOf(...COPY, "ENOTTY", "ETXTBSY"),
  punch: setOf("ENOTSUP", "ENOSYS", "ENODEV"),
  clear: setOf("ENOTSUP", "ENOSYS", "ENODEV", "EINVAL"),
  allocate: setOf("ENOTSUP", "ENOSYS", "ENODEV", "EINVAL"),
  setAttribute: setOf("EPERM", "EACCES", "ENOTSUP", "EINVAL"),
  advise: setOf("ENOTTY", "ENOTSUP", "ENOSYS", "EINVAL", "EPERM"),
} as const;
