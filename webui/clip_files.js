// The file picker takes the clip formats of the API and no others. Gradio's own list lacks mp4 and webm, which browsers
// call video, and its message lists formats that the API refuses. ENDINGS and REFUSED are filled in by page.py.
() => {
  const endings = ENDINGS, refused = REFUSED;
  const inClip = target => target instanceof Element && target.closest('#clip');
  const offer = () => document.querySelectorAll('#clip input[type=file]').forEach(input => {
    if (input.accept !== endings.join(',')) input.accept = endings.join(',');
  });
  // The upload button is made anew after each clip.
  new MutationObserver(offer).observe(document.body, {subtree: true, childList: true, attributeFilter: ['accept']});
  offer();

  function say(text) {
    const box = document.querySelector('#clip');
    document.querySelector('#clip-refused')?.remove();
    if (!text) return;
    const alert = Object.assign(document.createElement('div'), {id: 'clip-refused', className: 'problem', textContent: text});
    alert.setAttribute('role', 'alert');
    box.after(alert);
  }
  // Returns the files with a type of audio, or null where one has another ending.
  function audio(files) {
    if (![...files].every(file => endings.some(ending => file.name.toLowerCase().endsWith(ending)))) return null;
    const found = new DataTransfer();
    for (const file of files) {
      found.items.add(file.type.startsWith('audio/') ? file : new File([file], file.name, {type: 'audio/*'}));
    }
    return found.files;
  }
  // Both listeners come before Gradio's, which sit on the elements themselves.
  document.addEventListener('change', event => {
    if (!inClip(event.target) || event.target.type !== 'file') return;
    const files = audio(event.target.files);
    say(files ? '' : refused);
    if (files) event.target.files = files;
    else event.stopPropagation();
  }, {capture: true});
  document.addEventListener('drop', event => {
    const box = inClip(event.target), input = box?.querySelector('input[type=file]');
    if (!input || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true, cancelable: true}));
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  }, {capture: true});
}
