// A double click asks once, and Ctrl+Enter (on a Mac, Command+Enter) generates from wherever the keyboard is.
() => {
  const DOUBLE_MS = 600, GIVE_UP_MS = 5000;
  let asked = -Infinity, answered = true;
  const working = () => {
    const stop = document.querySelector('#stop');
    return stop !== null && stop.offsetParent !== null;
  };
  // An answer of any kind changes the button, the progress or the result. Until then a second click is part of the first.
  // So is one that comes at once: the first click itself may change them, before its request is under way.
  new MutationObserver(changes => {
    if (changes.some(({target}) => (target.parentElement ?? target).closest?.('#generate, #progress, #result'))) answered = true;
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
  document.addEventListener('click', event => {
    if (!(event.target instanceof Element) || !event.target.closest('#generate, .again')) return;
    if (working() || performance.now() - asked < (answered ? DOUBLE_MS : GIVE_UP_MS)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    asked = performance.now();
    answered = false;
  }, {capture: true});
  document.addEventListener('keydown', event => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.repeat) return;
    event.preventDefault();
    // A text field hands its last characters over before the click asks for them.
    document.activeElement?.dispatchEvent(new Event('change', {bubbles: true}));
    document.querySelector('#generate').click();
  });
}
