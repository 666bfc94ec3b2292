// Allocation as a heat strip: a bar as wide as the disk, darker where more of it is in the image.

const HEIGHT = 14;

/** Runs of parts that are equally full are one rectangle. */
export function drawStripSvg(strip: readonly number[]): string {
  const steps = strip.map((share) => Math.ceil(share * 4) / 4);
  const rects: string[] = [];
  for (let start = 0; start < steps.length; ) {
    let end = start + 1;
    while (end < steps.length && steps[end] === steps[start]) end += 1;
    const step = steps[start] ?? 0;
    if (step > 0) {
      rects.push(
        `<rect x="${start}" y="0" width="${end - start}" height="${HEIGHT}" fill-opacity="${step}"/>`,
      );
    }
    start = end;
  }
  const used = strip.reduce((sum, share) => sum + share, 0) / Math.max(1, strip.length);
  const label = `${Math.round(used * 100)} % of the disk`;
  return (
    `<svg class="strip" viewBox="0 0 ${strip.length} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label="${label}">` +
    `<rect class="empty" x="0" y="0" width="${strip.length}" height="${HEIGHT}"/>${rects.join("")}</svg>`
  );
}
