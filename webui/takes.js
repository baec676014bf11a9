// The last ten takes of this tab, the newest first: play, download, hear two side by side, speak one again. The list lies in
// the tab's sessionStorage, so that it outlives a reload and a switch of the language; the sound lies with the page's
// server, for an hour. `value` is {take} once a run is over; Python gets `submit` (again with another seed) and `select`
// (back to the settings of a take). What people wrote goes into the page as text alone.
const NAME = 'cosygraph.takes', MOST = 10;
const box = element.querySelector('.takes');
const said = name => box.dataset['take' + name];
let takes = [], compared = [];

const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter(child => child !== null));
  return made;
};
const link = (text, href, properties) => make('a', {textContent: text, href, ...properties});

function read() {
  try { takes = JSON.parse(sessionStorage.getItem(NAME) ?? '[]'); } catch { takes = []; }
  if (!Array.isArray(takes)) takes = [];
}
function keep() {
  try { sessionStorage.setItem(NAME, JSON.stringify(takes)); } catch { /* the list lives as long as the page */ }
}

// One sound at a time, the player of a run under way included.
box.addEventListener('play', event => {
  window.cosygraphSilence?.();
  box.querySelectorAll('audio').forEach(other => { if (other !== event.target) other.pause(); });
  follow(event.target);
}, {capture: true});
// The server has forgotten a take that is older than an hour.
box.addEventListener('error', event => event.target.closest('.take, .side')?.classList.add('gone'), {capture: true});

// The word that is heard lights up in the take's text. It is only painted: for a screen reader, and to be copied, the
// text stays one text. Offsets count code points, and the page's strings UTF-16 units.
const lit = window.Highlight && CSS.highlights ? new Highlight() : null;
if (lit) CSS.highlights.set('cosygraph-take', lit);
function follow(audio) {
  const place = audio.closest('.take'), take = takes.find(known => known.token === place?.dataset.token);
  if (!lit || !take?.words?.length) return;
  const text = place.querySelector('.said').firstChild, units = [0];
  for (const char of take.text) units.push(units.at(-1) + char.length);
  place.classList.add('followed');
  let shown = -1;
  const paint = () => {
    if (audio.paused || audio.ended || !audio.isConnected) { lit.clear(); place.classList.remove('followed'); return; }
    const now = take.words.findIndex(([, , start, end]) => start <= audio.currentTime && audio.currentTime < end);
    if (now !== shown) {
      lit.clear();
      shown = now;
      if (now >= 0) {
        const range = document.createRange(), [start, end] = take.words[now];
        range.setStart(text, units[start]);
        range.setEnd(text, units[end]);
        lit.add(range);
      }
    }
    requestAnimationFrame(paint);
  };
  paint();
}

function player(take) {
  return make('audio', {controls: true, preload: take === takes[0] ? 'metadata' : 'none', src: `../takes/${take.token}.wav`, ariaLabel: take.text});
}
function downloads(take) {
  const formats = box.dataset.formats.split(' ').map(format =>
    link(format, `../takes/${take.token}.${format}`, {download: `${take.name}.${format}`,
                                                     ariaLabel: `${said('Download')} ${format}`}));
  return make('span', {className: 'downloads'}, `${said('Download')} `, ...formats);
}
function button(name, className, press) {
  const made = make('button', {type: 'button', textContent: said(name), className});
  made.addEventListener('click', press);
  return made;
}
function trace(take) {
  return take.trace_url && /^https?:/.test(take.trace_url)
    ? link(`${said('Trace')} ↗`, take.trace_url, {target: '_blank', rel: 'noopener noreferrer', className: 'to-trace'}) : null;
}

function row(take) {
  const choose = make('input', {type: 'checkbox', checked: compared.includes(take.token)});
  choose.addEventListener('change', () => {
    compared = compared.filter(token => token !== take.token);
    if (choose.checked) compared = [...compared, take.token].slice(-2);
    draw();
    box.querySelector(`[data-token="${take.token}"] input`)?.focus();
  });
  const made = make('li', {className: 'take'},
    make('p', {className: 'said', textContent: take.text, title: take.text}),
    player(take),
    make('p', {className: 'synthetic', textContent: said('Synthetic')}),
    make('p', {className: 'gone-note', textContent: said('Gone')}),
    make('p', {className: 'settings', textContent: take.settings.map(([, , inWords]) => inWords).join(' · ')}),
    make('div', {className: 'tools'},
      button('Again', 'again', () => trigger('submit', {take: take.form})),
      button('Reuse', 'reuse', () => trigger('select', {take: take.form})),
      takes.length > 1 ? make('label', {}, choose, ` ${said('Compare')}`) : null,
      downloads(take), trace(take)));
  made.dataset.token = take.token;
  return made;
}

function side(take, other) {
  const differs = (name, value) => other.settings.find(([same]) => same === name)?.[1] !== value;
  const all = [['', take.text], ...take.settings];
  return make('div', {className: 'side'},
    player(take),
    make('dl', {}, ...all.map(([name, value]) => make('div',
      {className: (name ? differs(name, value) : value !== other.text) ? 'differs' : ''},
      make('dt', {textContent: name}), make('dd', {textContent: value})))));
}
function comparison() {
  const two = compared.map(token => takes.find(take => take.token === token)).filter(Boolean);
  if (two.length < 2) return null;
  const made = make('div', {className: 'comparison', role: 'group', ariaLabel: said('Compared')},
    make('h3', {textContent: said('Compared')}), side(two[0], two[1]), side(two[1], two[0]));
  // At the same place of the other one, to hear the difference.
  made.append(button('Swap', 'swap', () => {
    const [one, another] = made.querySelectorAll('audio');
    const [from, to] = one.paused && !another.paused ? [another, one] : [one, another];
    if (one.paused && another.paused) return one.play();
    to.currentTime = Math.min(from.currentTime, to.duration || from.currentTime);
    return to.play();
  }));
  return made;
}

function draw() {
  const open = box.querySelector('details')?.open ?? false;
  // Players keep their elements, and so their places.
  const players = new Map([...box.querySelectorAll('.take')].map(old => [old.dataset.token, old.querySelector('audio')]));
  const rows = list => list.map(take => {
    const made = row(take);
    if (players.has(take.token)) made.querySelector('audio').replaceWith(players.get(take.token));
    return made;
  });
  const [newest, ...earlier] = takes;
  const parts = [];
  if (newest) parts.push(make('ol', {className: 'newest'}, ...rows([newest])));
  if (earlier.length) {
    parts.push(make('details', {open}, make('summary', {textContent: said('Earlier').replace('{count}', earlier.length)}),
                    make('ol', {}, ...rows(earlier))));
  }
  const two = comparison();
  if (two) parts.push(two);
  box.replaceChildren(...parts);
}

function take(value) {
  if (!value?.take || takes.some(known => known.token === value.take.token)) return;
  takes = [value.take, ...takes].slice(0, MOST);
  compared = compared.filter(token => takes.some(known => known.token === token));
  keep();
  draw();
}
read();
draw();
watch('value', () => take(props.value));
