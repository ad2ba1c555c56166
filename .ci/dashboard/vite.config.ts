import { defineConfig } from 'vite';

export default defineConfig({
  // Where the components look for their icons, below public/build.
  publicDir: 'node_modules/@grafana/ui/dist/public',
  build: { chunkSizeWarningLimit: 1 << 20 },
});
