// The scores of all labels that transformers.js gives, with local files alone.

export async function scores({ env, pipeline }, models, texts, options) {
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  const found = {};
  for (const [name, task] of Object.entries(models)) {
    for (const dtype of ["fp32", "q8"]) {
      const classify = await pipeline(task, name, { dtype, ...options });
      const rows = [];
      for (const text of texts) {
        rows.push(await classify(text, { top_k: null, ignore_labels: [] }));
      }
      found[`${name} ${dtype}`] = rows;
      await classify.dispose();
    }
  }
  return found;
}
