// Ctrl+Enter (on a Mac, Command+Enter) generates from wherever the keyboard is, and does nothing while a run is under way.
() => document.addEventListener('keydown', event => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.repeat) return;
  event.preventDefault();
  const stop = document.querySelector('#stop');
  if (stop && stop.offsetParent !== null) return;
  // A text field hands its last characters over before the click asks for them.
  document.activeElement?.dispatchEvent(new Event('change', {bubbles: true}));
  document.querySelector('#generate').click();
})
