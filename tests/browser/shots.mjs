// Pictures of pages, for people to look at.

import { mkdirSync } from "node:fs";
import path from "node:path";

export function shotPath({ scheme, screen, scripts }, name) {
  const { SHOTS } = process.env;
  mkdirSync(SHOTS, { recursive: true });
  return path.join(SHOTS, `${name}-${scheme}-${screen}${scripts ? "" : "-no-scripts"}.png`);
}

export async function shoot(site, name) {
  // Those further down are loaded when somebody comes to them.
  await site.page.evaluate(() => {
    for (const image of document.images) image.loading = "eager";
    return Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  });
  const picture = { path: shotPath(site, name), fullPage: true };
  for (let tries = 1; ; tries += 1) {
    try {
      await site.page.screenshot(picture);
      return;
    } catch (error) {
      // Chromium says so now and then on a busy machine; it is about the camera, not the page.
      if (tries === 5 || !String(error).includes("Unable to capture screenshot")) throw error;
      await new Promise((later) => setTimeout(later, 500));
    }
  }
}
