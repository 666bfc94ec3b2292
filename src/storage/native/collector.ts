// Telling the runtime that much memory was let go of. The single file's collector waits until the heap has grown to three
// times what it had at its last run; Node's counts arrays by themselves, and can't be told.

interface BunRuntime {
  gc(waits: boolean): void;
}

/** What frees, at once, all that nobody holds. It takes some 10 ms. Undefined where the runtime has no such thing. */
export function findCollector(): (() => void) | undefined {
  const { Bun: runtime } = globalThis as { readonly Bun?: BunRuntime };
  return (
    runtime &&
    (() => {
      runtime.gc(true);
    })
  );
}
