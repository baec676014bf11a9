// Keeps the form in this tab's sessionStorage (form.py). Nothing is written before the page has read what was kept.
(() => {
  const NAME = 'cosygraph.form';
  let begun = false;
  window.cosygraphForm = {
    read() {
      try { return sessionStorage.getItem(NAME) ?? ''; } catch { return ''; }
    },
    begin() { begun = true; },
    save(names, values) {
      if (!begun) return;
      const kept = Object.fromEntries(names.map((name, at) => [name, values[at] ?? null]));
      kept.clip = kept.clip?.path ?? null;
      // A browser that keeps nothing (a full or forbidden store) leaves the page as it is.
      try { sessionStorage.setItem(NAME, JSON.stringify(kept)); } catch { /* see above */ }
    },
  };
})();
