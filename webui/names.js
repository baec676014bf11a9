// What Gradio leaves out for screen readers: an accordion says whether it is open, and a player's buttons skip by
// "1.5 seconds" and not by "1.4999999999999998 seconds".
() => {
  const mend = () => {
    document.querySelectorAll('button.label-wrap').forEach(button => {
      const open = String(button.classList.contains('open'));
      if (button.getAttribute('aria-expanded') !== open) button.setAttribute('aria-expanded', open);
    });
    document.querySelectorAll('button[aria-label]').forEach(button => {
      const label = button.getAttribute('aria-label');
      const rounded = label.replace(/\d+\.\d{3,}/g, number => String(Number(Number(number).toFixed(1))));
      if (rounded !== label) button.setAttribute('aria-label', rounded);
    });
  };
  new MutationObserver(mend).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ['class', 'aria-label'],
  });
  mend();
}
