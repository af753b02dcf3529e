// Small helpers around the document, and how numbers are written.

export const element = (id) => document.getElementById(id);

/** An element with properties, data-, aria- and class attributes, style variables and children. */
export function make(tag, { data = {}, aria = {}, style = {}, class: name = "", ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (name) made.className = name;
  Object.assign(made.dataset, data);
  for (const [key, value] of Object.entries(aria)) made.setAttribute(`aria-${key}`, value);
  for (const [key, value] of Object.entries(style)) made.style.setProperty(key, value);
  made.append(...children);
  return made;
}

/** Tells screen readers. */
export function announce(text) {
  element("status").textContent = text;
}

/** The value of the radio button that is chosen in a group. */
export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

export const percent = (share) =>
  share < 0.001 ? "< 0.1%" : `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)}%`;
export const times = (value) => `${Math.abs(value) < 9.95 ? value.toFixed(1) : value.toFixed(0)}×`;
export const rgb = (color) => `rgb(${color.join(" ")})`;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
