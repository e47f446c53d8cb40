// Pictures of pages, for people to look at.

import { mkdirSync } from "node:fs";
import path from "node:path";

export function shotPath({ scheme, screen }, name) {
  const { SHOTS } = process.env;
  mkdirSync(SHOTS, { recursive: true });
  return path.join(SHOTS, `${name}-${scheme}-${screen}.png`);
}

export async function shoot(site, name) {
  await site.page.screenshot({ path: shotPath(site, name), fullPage: true });
}
