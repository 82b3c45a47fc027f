// Small help with elements. Text is only ever set as text.

export const $ = (id) => document.getElementById(id);

export function make(tag, { class: name, text, on, data, ...rest } = {}, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  for (const [event, act] of Object.entries(on ?? {})) element.addEventListener(event, act);
  for (const [key, value] of Object.entries(data ?? {})) element.dataset[key] = value;
  for (const [key, value] of Object.entries(rest)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const seconds = (s) => (Math.round(s * 100) / 100).toFixed(Math.abs(s * 10 - Math.round(s * 10)) < 0.05 ? 1 : 2);

export function clock(s) {
  return s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
}

// Says something to those who cannot see it.
export function say(text) {
  $("said").textContent = text;
}

export function trouble(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

const HUES = [232, 338, 28, 158, 278, 4, 192, 84];
export const hue = (n) => HUES[n % HUES.length];
