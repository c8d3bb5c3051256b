// node node.mjs REQUEST: prints the scores that transformers.js gives in Node, as JSON.

import { readFileSync } from "node:fs";
import * as transformers from "@huggingface/transformers";
import { scores } from "./scores.mjs";

const { folder, models, texts } = JSON.parse(readFileSync(process.argv[2], "utf8"));
transformers.env.localModelPath = folder;
transformers.env.useFSCache = false;
console.log(JSON.stringify(await scores(transformers, models, texts, { device: "cpu" })));
