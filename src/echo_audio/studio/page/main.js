// Where the page begins: which kind it is, the theme, and what is always there.

import { Desk } from "studio/desk";
import { $ } from "studio/dom";
import { Player } from "studio/player";

const kind = document.querySelector("meta[name=studio]").content;
const nonce = document.querySelector("script[nonce]")?.nonce || undefined;
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

const player = new Player(nonce);
const desk = new Desk(player);

let chosenTheme = null; // of this visit; nothing is stored
function theme() {
  root.dataset.theme = chosenTheme ?? (dark.matches ? "dark" : "light");
  if (player.blob) player.draw();
}
theme();
dark.addEventListener("change", theme);
$("theme").addEventListener("click", () => {
  chosenTheme = root.dataset.theme === "dark" ? "light" : "dark";
  theme();
});

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth < 700 !== width < 700 && player.blob) player.draw();
  width = innerWidth;
});

if (kind !== "saved") {
  const { share } = await import("studio/share");
  $("share").addEventListener("click", () => share(desk));
}
const { begin } = await import(kind === "ask" ? "studio/ask" : kind === "view" ? "studio/viewer" : "studio/saved");
await begin(desk, nonce);
root.dataset.ready = "true";
