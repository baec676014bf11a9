// A double click asks once, and Ctrl+Enter (on a Mac, Command+Enter) generates from wherever the keyboard is.
() => {
  const GIVE_UP_MS = 5000;
  let asked = null;
  const working = () => {
    const stop = document.querySelector('#stop');
    return stop !== null && stop.offsetParent !== null;
  };
  // An answer of any kind changes the button, the progress or the result; until then a second click is part of the first.
  new MutationObserver(changes => {
    if (changes.some(({target}) => (target.parentElement ?? target).closest?.('#generate, #progress, #result'))) asked = null;
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
  document.addEventListener('click', event => {
    if (!(event.target instanceof Element) || !event.target.closest('#generate, .again')) return;
    // The first click of a double click may change them too, before its request is under way: `detail` counts clicks.
    if (working() || event.detail > 1 || (asked !== null && performance.now() - asked < GIVE_UP_MS)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    asked = performance.now();
  }, {capture: true});
  document.addEventListener('keydown', event => {
    // An input method takes Enter for itself while it composes a character; Safari says so by the code alone.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.repeat) return;
    event.preventDefault();
    // A text field hands its last characters over before the click asks for them.
    document.activeElement?.dispatchEvent(new Event('change', {bubbles: true}));
    document.querySelector('#generate').click();
  });
}
