// Decimals as C's printf rounds them. toFixed differs from it in ties alone: 3.125 is 3.12 there, and 3.13 here.

/** `%.2f`. */
export function toTwoDecimals(value: number): string {
  const cents = Math.floor(value * 100);
  // Only eighths can lie in the middle between two hundredths, and a double holds those exactly.
  const isTie = Number.isInteger(value * 8) && value * 100 - cents === 0.5;
  return (isTie && cents % 2 === 0 ? cents / 100 : value).toFixed(2);
}
