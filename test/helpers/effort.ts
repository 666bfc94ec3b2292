// How much a test has worked: the time of the processor, which a machine that is busy with other things does not
// lengthen, as it does the time of day. Bounds on it find what runs away, and never what has to wait.

/** Begins to count. The function returned gives the milliseconds of processor time of this process since then. */
export function startEffort(): () => number {
  const began = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(began);
    return (user + system) / 1000;
  };
}
