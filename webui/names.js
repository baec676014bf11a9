// What Gradio leaves out for screen readers: an accordion says whether it is open, a player's buttons skip by "1.5 seconds"
// and not by "1.4999999999999998 seconds", and names that Gradio has in English alone are in the page's language. LABELS
// is filled in by page.py: pairs of a pattern and what stands in its place.
() => {
  const labels = LABELS.map(([pattern, text]) => [new RegExp(pattern), text]);
  const mend = () => {
    document.querySelectorAll('button.label-wrap').forEach(button => {
      const open = String(button.classList.contains('open'));
      if (button.getAttribute('aria-expanded') !== open) button.setAttribute('aria-expanded', open);
    });
    document.querySelectorAll('button[aria-label], input[aria-label]').forEach(control => {
      const label = control.getAttribute('aria-label');
      const rounded = label.replace(/\d+\.\d{3,}/g, number => String(Number(Number(number).toFixed(1))));
      const said = labels.reduce((text, [pattern, own]) => text.replace(pattern, own), rounded);
      if (said !== label) control.setAttribute('aria-label', said);
    });
  };
  new MutationObserver(mend).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ['class', 'aria-label'],
  });
  mend();
}
