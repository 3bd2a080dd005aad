"""What holds of every view of the page, as JavaScript to ask a browser."""

from __future__ import annotations

CONTRAST = """(() => {
  const box = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (css) => { box.clearRect(0, 0, 1, 1); box.fillStyle = css; box.fillRect(0, 0, 1, 1);
    return [...box.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => { const [r, g, b] = c.slice(0, 3)
    .map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.visually-hidden, .skip, :disabled')) continue;
    let back = e, colour = [0, 0, 0, 0];
    while (back && (colour = rgb(getComputedStyle(back).backgroundColor))[3] < 255) {
      back = back.parentElement;
    }
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(colour)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    const label = `${e.tagName}.${e.className} ${ratio.toFixed(2)}`;
    if (ratio < 4.5) poor.push(`${label} ${e.textContent.slice(0, 40)}`);
  }
  return poor;
})()"""

FITS = "document.documentElement.scrollWidth <= innerWidth"
SMALL = """[...document.querySelectorAll(
  'button, select, input:not([type=checkbox]), summary, a.button')]
  .filter((e) => e.checkVisibility()
  && !e.closest('td') && e.getBoundingClientRect().height < 40).map((e) => e.id || e.textContent)"""
