// The page at "/": a chat over /v1/chat/completions, and the engine as /metrics tells it.
'use strict';

const $ = (id) => document.getElementById(id);
const messages = [];  // {role, content}, as the API takes them.
let running = null;   // The AbortController of the answer being streamed.

// -- Chat

function headers() {
  const key = $('key').value.trim();
  return key ? {'Authorization': `Bearer ${key}`} : {};
}

// An entry of the conversation; returns the element for its text.
function addEntry(who, text = '') {
  const entry = document.createElement('li');
  const name = document.createElement('span');
  name.className = 'who';
  name.textContent = who;
  const body = document.createElement('div');
  body.className = 'text';
  body.textContent = text;
  entry.append(name, body);
  $('messages').append(entry);
  $('messages').scrollTop = $('messages').scrollHeight;
  return body;
}

function appendText(body, text, accepted) {
  if (!text) return;
  const log = $('messages');
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (accepted) {
    const span = document.createElement('span');
    span.className = 'accepted';
    span.title = 'guessed ahead and accepted';
    span.textContent = text;
    body.append(span);
  } else {
    body.append(text);
  }
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function requestBody() {
  const body = {
    messages: [...messages],
    stream: true,
    stream_options: {include_usage: true},
    logprobs: true,  // They tell which tokens came together, by one step.
  };
  if ($('system').value) body.messages.unshift({role: 'system', content: $('system').value});
  for (const name of ['temperature', 'top_p', 'max_tokens', 'seed']) {
    if ($(name).value !== '') body[name] = Number($(name).value);
  }
  if ($('drafter').value) body.speculation = {drafter: $('drafter').value};
  return JSON.stringify(body);
}

// The JSON of each event of a stream, until [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    buffer += value;
    for (let end; (end = buffer.indexOf('\n\n')) >= 0; buffer = buffer.slice(end + 2)) {
      const event = buffer.slice(0, end);
      if (!event.startsWith('data: ')) continue;  // A ping.
      if (event === 'data: [DONE]') return;
      yield JSON.parse(event.slice(6));
    }
  }
}

// Shows what one step brought. Of several tokens, all but the last were guessed ahead.
function appendStep(body, choice, decoder) {
  let rest = choice.delta.content || '';
  const tokens = choice.logprobs ? choice.logprobs.content : [];
  tokens.slice(0, -1).forEach((token) => {
    const text = decoder.decode(new Uint8Array(token.bytes), {stream: true});
    if (!rest.startsWith(text)) return;  // Special, or held back by the server.
    appendText(body, text, true);
    rest = rest.slice(text.length);
  });
  if (tokens.length) decoder.decode(new Uint8Array(tokens.at(-1).bytes), {stream: true});
  appendText(body, rest, false);
  return tokens.length;
}

function showSpeed(tokens, firstAt, usage) {
  const seconds = (performance.now() - firstAt) / 1000;
  const rate = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : 0;
  let text = `${tokens} tokens, ${rate.toFixed(1)} tokens/s`;
  const details = usage && usage.completion_tokens_details;
  if (details && details.accepted_prediction_tokens + details.rejected_prediction_tokens > 0) {
    text += `, ${details.accepted_prediction_tokens} of them guessed ahead`;
  }
  $('speed').textContent = text;
}

async function readAnswer(response, body) {
  const decoder = new TextDecoder();
  let tokens = 0, firstAt = 0;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    if (event.choices.length) {
      firstAt ||= performance.now();
      tokens += appendStep(body, event.choices[0], decoder);
    }
    showSpeed(tokens, firstAt, event.usage);
  }
}

async function send() {
  const text = $('prompt').value.trim();
  if (!text || running) return;
  $('prompt').value = '';
  messages.push({role: 'user', content: text});
  addEntry('You', text);
  const body = addEntry('Model');
  running = new AbortController();
  $('send').disabled = true;
  $('stop').disabled = false;
  $('speed').textContent = 'waiting for the first token…';
  try {
    const response = await fetch('v1/chat/completions', {
      method: 'POST',
      headers: {'Content-Type': 'application/json', ...headers()},
      body: requestBody(),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await readAnswer(response, body);
  } catch (error) {
    if (error.name === 'AbortError') {
      $('speed').textContent += ' (stopped)';
    } else {
      body.append(error.message);
      body.classList.add('error');
    }
  } finally {
    if (body.classList.contains('error')) {
      messages.pop();  // The next question does not go on from this one.
    } else {
      messages.push({role: 'assistant', content: body.textContent});
    }
    running = null;
    $('send').disabled = false;
    $('stop').disabled = true;
    $('prompt').focus();
  }
}

function stop() {
  if (running) running.abort();
}

$('compose').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
$('prompt').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$('stop').addEventListener('click', stop);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stop();
});
$('clear').addEventListener('click', () => {
  stop();
  messages.length = 0;
  $('messages').replaceChildren();
  $('speed').textContent = '';
  $('prompt').focus();
});

// -- The engine

const kHistory = 60;  // Seconds.
const history = [];   // {prefill, decode, draft}, tokens a second.
let previous = null;

// name -> [{labels, value}], of the text format.
function parseMetrics(text) {
  const series = new Map();
  for (const line of text.split('\n')) {
    const match = /^treeline_(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value;
    }
    if (!series.has(match[1])) series.set(match[1], []);
    series.get(match[1]).push({labels, value: Number(match[3])});
  }
  return series;
}

function total(series, name) {
  return (series.get(name) || []).reduce((sum, sample) => sum + sample.value, 0);
}

// Rows of a label, a bar and a number; a bar of `most` is full.
function showBars(element, rows, most, empty) {
  if (!rows.length) {
    const text = document.createElement('span');
    text.className = 'empty';
    text.textContent = empty;
    return element.replaceChildren(text);
  }
  element.replaceChildren(...rows.flatMap((row) => {
    const label = document.createElement('span');
    label.textContent = row.label;
    const bar = document.createElement('progress');
    bar.max = most;
    bar.value = row.share;
    bar.setAttribute('aria-label', row.label);
    const number = document.createElement('span');
    number.textContent = row.number;
    return [label, bar, number];
  }));
}

function showHistogram(element, series, name) {
  const buckets = (series.get(`${name}_bucket`) || [])
    .map(({labels, value}) => ({bound: Number(labels.le.replace('+Inf', 'Infinity')), value}))
    .sort((a, b) => a.bound - b.bound);
  let below = 0;
  const rows = buckets.map(({bound, value}) => {
    const count = value - below;
    below = value;
    const label = bound === Infinity ? 'more' : `≤ ${bound} s`;
    return {label, share: count, number: String(count)};
  }).filter((row) => row.share > 0);
  showBars(element, rows, Math.max(...rows.map((row) => row.share)), 'nothing measured yet');
}

function showAcceptance(series) {
  const drafts = total(series, 'spec_decode_num_drafts_total');
  const rows = (series.get('spec_decode_num_accepted_tokens_per_pos_total') || [])
    .map(({labels, value}) => ({position: Number(labels.position), share: value / drafts}))
    .sort((a, b) => a.position - b.position)
    .map(({position, share}) => ({
      label: `depth ${position + 1}`, share, number: `${Math.round(100 * share)} %`,
    }));
  showBars($('acceptance'), rows, 1, 'no drafts yet');
}

function showHistory() {
  const kinds = ['prefill', 'decode', 'draft'];
  const most = Math.max(1, ...history.map((now) => now.prefill + now.decode + now.draft));
  const width = 300 / kHistory;
  const bars = history.flatMap((now, i) => {
    let bottom = 80;
    return kinds.map((kind) => {
      const bar = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
      const height = 80 * now[kind] / most;
      bottom -= height;
      bar.setAttribute('class', kind);
      bar.setAttribute('x', (kHistory - history.length + i) * width);
      bar.setAttribute('y', bottom);
      bar.setAttribute('width', width - 0.5);
      bar.setAttribute('height', height);
      return bar;
    });
  });
  $('batch').replaceChildren(...bars);
  const last = history.at(-1);
  for (const kind of kinds) $(`rate-${kind}`).textContent = last ? Math.round(last[kind]) : 0;
}

function showMetrics(series) {
  $('running').textContent = total(series, 'num_requests_running');
  $('waiting').textContent = total(series, 'num_requests_waiting');
  const used = total(series, 'state_slots_used'), slots = total(series, 'state_slots_total');
  $('slots').textContent = `${used} / ${slots}`;
  $('slot-meter').value = slots ? used / slots : 0;
  const now = {
    at: performance.now(),
    prefill: total(series, 'prompt_tokens_total'),
    decode: total(series, 'generation_tokens_total'),
    draft: total(series, 'spec_decode_num_draft_tokens_total'),
  };
  if (previous) {
    const seconds = (now.at - previous.at) / 1000;
    const rate = (kind) => Math.max(0, now[kind] - previous[kind]) / seconds;
    history.push({prefill: rate('prefill'), decode: rate('decode'), draft: rate('draft')});
    if (history.length > kHistory) history.shift();
  }
  previous = now;
  showHistory();
  showAcceptance(series);
  showHistogram($('ttft'), series, 'time_to_first_token_seconds');
  showHistogram($('itl'), series, 'inter_token_latency_seconds');
}

async function watchEngine() {
  for (;;) {
    let pause = 1000;
    try {
      const response = await fetch('metrics');
      if (response.ok) {
        $('engine-state').textContent = '';
        showMetrics(parseMetrics(await response.text()));
      } else {
        $('engine-state').textContent = 'The metrics are answered at the admin port.';
        pause = 60000;
      }
    } catch {
      $('engine-state').textContent = 'The server does not answer.';
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function showModel() {
  for (;;) {
    try {
      const response = await fetch('v1/models', {headers: headers()});
      if (response.ok) {
        const model = (await response.json()).data[0];
        $('model').textContent = `${model.id}, up to ${model.max_model_len} tokens`;
        return;
      }
      $('model').textContent = response.status === 401
        ? 'an API key is needed: see Parameters' : 'the model is being loaded…';
    } catch {
      $('model').textContent = 'the server does not answer';
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

showModel();
watchEngine();
$('prompt').focus();
