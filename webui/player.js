// Plays 16 bit PCM as it arrives. `value` is {run, rate, chunks: {number: base64}, over}; the last few chunks are in every
// value, so that two updates that Gradio shows as one lose nothing. What has been scheduled is told in data-* attributes.
const box = element.querySelector('.live'), wanted = box.querySelector('input');
const status = box.querySelector('[role=status]'), hush = box.querySelector('button');
const LEAD_S = 0.15;
let context = null, run = null, next = 0, end = 0, playing = [];

function ready() {
  context = context || new (window.AudioContext || window.webkitAudioContext)();
  if (context.state === 'suspended') context.resume();
}
// Browsers let a page make sound once a person has touched it.
for (const kind of ['pointerdown', 'keydown']) {
  document.addEventListener(kind, () => { if (wanted.checked) ready(); }, {capture: true});
}

function silence() {
  playing.forEach(source => { source.onended = null; source.stop(); });
  playing = [];
  end = 0;
  show('idle');
}
// What is still on its way of this run stays silent too.
window.cosygraphSilence = () => { box.dataset.hushed = run; silence(); };
hush.addEventListener('click', window.cosygraphSilence);
wanted.addEventListener('change', () => { if (!wanted.checked) silence(); });

function show(state) {
  box.dataset.state = state;
  hush.hidden = state !== 'playing';
  status.textContent = state === 'playing' ? box.dataset.playing : state === 'gap' ? box.dataset.gap : '';
}

function samples(base64) {
  const bytes = Uint8Array.from(atob(base64), char => char.charCodeAt(0));
  const view = new DataView(bytes.buffer), found = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < found.length; i++) found[i] = view.getInt16(2 * i, true) / 32768;
  return found;
}

function play(base64, rate) {
  const sound = samples(base64);
  if (!sound.length) return;
  box.dataset.seconds = Number(box.dataset.seconds) + sound.length / rate;
  if (!wanted.checked || box.dataset.hushed === run) return;
  ready();
  const buffer = context.createBuffer(1, sound.length, rate);
  buffer.copyToChannel(sound, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  end = Math.max(end, context.currentTime + LEAD_S);
  source.start(end);
  end += buffer.duration;
  playing.push(source);
  source.onended = () => {
    playing = playing.filter(other => other !== source);
    if (!playing.length && box.dataset.over === 'true') show('idle');
  };
  show('playing');
}

function take(value) {
  if (!value || !value.run) return;
  if (value.run !== run) {
    silence();
    run = value.run;
    next = 0;
    Object.assign(box.dataset, {seconds: 0, chunks: 0, missed: 0, hushed: ''});
  }
  box.dataset.over = Boolean(value.over);
  for (const number of Object.keys(value.chunks).map(Number).sort((a, b) => a - b)) {
    if (number < next) continue;
    box.dataset.missed = Number(box.dataset.missed) + number - next;
    play(value.chunks[number], value.rate);
    next = number + 1;
    box.dataset.chunks = next;
  }
  if (value.over && Number(box.dataset.missed)) show('gap');
  else if (value.over && !playing.length) show('idle');
}
watch('value', () => take(props.value));
