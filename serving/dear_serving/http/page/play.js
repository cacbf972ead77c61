// The playground.
import { mountBar } from "./bar.js";

mountBar("dear.key", "key");
