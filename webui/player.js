// Plays 16 bit PCM as it arrives. `value` is {run, rate, chunks: {number: base64}, over}; the last few chunks are in every
// value, so that two updates that Gradio shows as one lose nothing. What has been scheduled is told in data-* attributes.
const box = element.querySelector('.live'), wanted = box.querySelector('input');
const status = box.querySelector('[role=status]'), hush = box.querySelector('button');
const caption = box.querySelector('.caption'), LEAD_S = 0.15;
let context = null, run = null, next = 0, end = 0, playing = [];
// Of this run: when each chunk is heard (seconds of speech before it -> the context's time), its words, and its text.
let heard = [], words = [], units = [];
const lit = window.Highlight && CSS.highlights ? new Highlight() : null;
if (lit) CSS.highlights.set('cosygraph-live', lit);

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
  heard = [];
  end = 0;
  show('idle');
}

// The text while it is heard, with the word of the moment painted in it.
function follow() {
  if (box.dataset.state !== 'playing') { lit.clear(); return; }
  const chunk = heard.findLast(({at}) => at <= context.currentTime);
  const now = chunk ? chunk.seconds + context.currentTime - chunk.at : -1;
  const word = words.find(([, , start, end]) => start <= now && now < end);
  lit.clear();
  if (word) {
    const range = document.createRange();
    range.setStart(caption.firstChild, units[word[0]]);
    range.setEnd(caption.firstChild, units[word[1]]);
    lit.add(range);
    const line = range.getBoundingClientRect(), shown = caption.getBoundingClientRect();
    if (line.bottom > shown.bottom || line.top < shown.top) caption.scrollTop += line.top - shown.top;
  }
  requestAnimationFrame(follow);
}
// What is still on its way of this run stays silent too.
window.cosygraphSilence = () => { box.dataset.hushed = run; silence(); };
hush.addEventListener('click', window.cosygraphSilence);
wanted.addEventListener('change', () => { if (!wanted.checked) silence(); });

function show(state) {
  box.dataset.state = state;
  hush.hidden = state !== 'playing';
  caption.hidden = state !== 'playing' || !lit || !words.length;
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
  heard.push({seconds: Number(box.dataset.seconds) - buffer.duration, at: end});
  end += buffer.duration;
  playing.push(source);
  source.onended = () => {
    playing = playing.filter(other => other !== source);
    if (!playing.length && box.dataset.over === 'true') show('idle');
  };
  const silent = box.dataset.state !== 'playing';
  show('playing');
  if (silent && lit) follow();
}

function take(value) {
  if (!value || !value.run) return;
  if (value.run !== run) {
    silence();
    run = value.run;
    next = 0;
    words = [];
    units = [0];
    for (const char of value.text ?? '') units.push(units.at(-1) + char.length);
    caption.textContent = value.text ?? '';
    Object.assign(box.dataset, {seconds: 0, chunks: 0, missed: 0, hushed: ''});
  }
  box.dataset.over = Boolean(value.over);
  for (const number of Object.keys(value.chunks).map(Number).sort((a, b) => a - b)) {
    if (number < next) continue;
    box.dataset.missed = Number(box.dataset.missed) + number - next;
    words.push(...(value.words?.[number] ?? []));
    play(value.chunks[number], value.rate);
    next = number + 1;
    box.dataset.chunks = next;
  }
  if (value.over && Number(box.dataset.missed)) show('gap');
  else if (value.over && !playing.length) show('idle');
}
watch('value', () => take(props.value));
