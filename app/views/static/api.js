// Questions to the server. An answer that is no 2xx becomes an Error with the sentence the server gave.

export async function ask(path, parameters = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) if (value !== "" && value != null) url.searchParams.set(name, value);
  // A server that is suspended answers nothing at all: without a limit the page would wait with it, and say nothing.
  const answer = await fetch(url, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(20_000) });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok && !("checks" in body)) throw new Error(body.detail ?? `${answer.status} ${answer.statusText}`);
  return { body, source: answer.headers.get("Chronicle-Source") };
}

// Ask again and again; a question that failed is asked again as well, and never two at a time.
export function every(milliseconds, work) {
  let stopped = false;
  async function round() {
    if (!document.hidden) await work().catch((error) => console.debug(error));
    if (!stopped) setTimeout(round, milliseconds);
  }
  round();
  return () => { stopped = true; };
}
