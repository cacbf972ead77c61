// The fleet's page: replicas, tenants, adapters and the last changes.
import { mountBar } from "./bar.js";

mountBar("dear.admin-key", "admin key");
