// Gradio gives every radio button a name of its own, and a new one with each choice, so that to a browser each is a group
// of one: a Tab stop each, and no arrow keys. Under one name they are what they look like. The groups' ids are the names.
() => {
  for (const group of document.querySelectorAll('#source, #mode')) {
    const buttons = () => group.querySelectorAll('input[type=radio]');
    const name = () => buttons().forEach(button => { if (button.name !== group.id) button.name = group.id; });
    new MutationObserver(name).observe(group, {subtree: true, childList: true, attributeFilter: ['name']});
    name();
  }
}
