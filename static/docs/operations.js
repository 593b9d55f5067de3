// What the page shows of an operation, out of OpenAPI's shape. Knows nothing of the page.

const METHODS = ["get", "head", "options", "post", "put", "patch", "delete"];

/** `integer, 1 to 100`: a schema in a few words. */
function words(schema, needed) {
  const types = [schema.type].flat().filter((type) => type && type !== "null");
  const parts = [types.join(" or ")];
  if (schema.enum) parts.push(schema.enum.filter((value) => value !== null).join(" | "));
  if (schema.minimum !== undefined) parts.push(schema.maximum === undefined ? `from ${schema.minimum}` : `${schema.minimum} to ${schema.maximum}`);
  if (schema.default !== undefined) parts.push(`${schema.default} where it is left out`);
  if (needed) parts.push("needed");
  return parts.filter(Boolean).join(", ");
}

function inputsOf(operation) {
  const places = { path: "in the path", query: "in the query", header: "header field" };
  const parameters = operation.parameters.map((one) => ({
    name: one.name,
    hint: `${places[one.in]}, ${words(one.schema, one.required)}`,
    text: one.description ?? `As in \`${one.example}\`.`,
  }));
  const [type, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (!content) return parameters;
  const { properties, required = [], description } = content.schema;
  if (!properties) return [...parameters, { name: type, hint: operation.requestBody.required ? "the body, needed" : "the body", text: description ?? "" }];
  const fields = Object.entries(properties).map(([name, schema]) => ({
    name,
    hint: `in the body, ${words(schema, required.includes(name))}`,
    text: schema.description ?? "",
  }));
  return [...parameters, ...fields];
}

function problemsOf(responses) {
  return Object.entries(responses).flatMap(([status, { content }]) =>
    Object.entries(content?.["application/problem+json"]?.examples ?? {}).map(([code, { value }]) => ({ name: `${status} ${code}`, hint: "", text: value.detail })),
  );
}

function answerOf(responses) {
  const [status, { description, content, headers = {} }] = Object.entries(responses).find(([status]) => status < 400);
  const [example] = Object.values(content ?? {}).map((one) => one.example);
  const text = example === undefined || typeof example === "string" ? example : JSON.stringify(example, null, 2);
  return { answer: { status, text: description, example: text }, headers: Object.entries(headers).map(([name, { example }]) => `${name}: ${example}`) };
}

/** The operations of a tag, by path, as the page shows them; `words` is what is searched. */
export function operations(document, tag) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods[method]?.tags.includes(tag)).map((method) => {
      const operation = methods[method];
      const { operationId: id, summary, description } = operation;
      const { answer, headers } = answerOf(operation.responses);
      const [{ source: curl }] = operation["x-codeSamples"];
      const inputs = inputsOf(operation);
      const problems = problemsOf(operation.responses);
      const said = [method, path, tag, summary, description, ...inputs.map(({ name }) => name), ...problems.map(({ name }) => name)];
      return { id, method: method.toUpperCase(), path, summary, description, who: operation["x-who"], inputs, curl, answer, headers, problems, words: said.join(" ").toLowerCase() };
    }),
  );
}
