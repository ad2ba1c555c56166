// The pages of docs/ as a site. What they link to beside them is on the code host.
import { defineConfig } from 'vitepress'

const source = 'https://github.com/sockdog/sockdog/blob/main'
const pages = {
  'Start': [['README', 'Overview'], ['runbook', 'Runbook'], ['troubleshooting', 'Troubleshooting'], ['recipes', 'Known sources of leaks'], ['comparison', 'What else there is']],
  'Deploy': [['quickstart', 'Quick starts'], ['kubernetes', 'Kubernetes']],
  'Use': [['rules', 'Rules'], ['reference', 'Every key of the rules'], ['alerts', 'Alerts'], ['watching', 'Watching the watchdog'], ['why', 'Who leaks, and why'], ['ss', 'Filters and tables'], ['stop', 'Stop all acting']],
  'Try beforehand': [['testing', 'Unit tests of rules'], ['recording', 'Recording and replaying']],
  'Trust': [['safety', 'Safety'], ['SECURITY', 'Security'], ['kernel', 'What it relies on'], ['events', 'Events'], ['performance', 'What it costs']],
}

export default defineConfig({
  title: 'sockdog',
  description: 'A watchdog for stuck TCP sockets on Linux',
  srcDir: 'docs',
  outDir: process.env.SITE,
  rewrites: { 'README.md': 'index.md' },
  ignoreDeadLinks: [/\.\.\//, /^http:\/\/localhost/],
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    sidebar: Object.entries(pages).map(([text, items]) => ({ text, items: items.map(([link, text]) => ({ text, link: link === 'README' ? '/' : '/' + link })) })),
  },
  markdown: {
    config(md) {
      // The templates of alerts are none of Vue's.
      md.renderer.rules.code_inline = (tokens, i) => `<code v-pre>${md.utils.escapeHtml(tokens[i].content)}</code>`
      const open = md.renderer.rules.link_open
      md.renderer.rules.link_open = (tokens, i, options, env, self) => {
        const href = tokens[i].attrGet('href')
        if (href.startsWith('../')) tokens[i].attrSet('href', source + href.slice(2))
        return open(tokens, i, options, env, self)
      }
    },
  },
})
