package notify

import "strings"

// mostSlack is how long a text is at most, in bytes. Slack asks for less than 4,000, and
// cuts what has more than 40,000 characters.
// https://docs.slack.dev/changelog/2018-truncating-really-long-messages
const mostSlack = 4000

// slack is a message as incoming webhooks of Slack take it, and chats that take the
// same: only text, which all of them know.
// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
func slack(n *notification) []byte {
	text := func(d *digest) string { return d.text(markup{"*%s*", "• %s", "  %s", slackEscape}) }
	d := compose(n, func(d *digest) bool { return len(text(d)) <= mostSlack })
	return encode(object{"text": text(d)})
}

// slackEscape takes from a text what misleads or alarms: with < begin links and
// mentions, and &, < and > are escaped as entities. There is no escape for *bold*.
// https://docs.slack.dev/messaging/formatting-message-text
// Mattermost mentions whoever stands behind an @, and knows links in Markdown.
// https://developers.mattermost.com/integrate/slash-commands/slack
func slackEscape(text string) string {
	return aroundLinks(text, slackMarkdown.Replace, slackEntities.Replace)
}

var (
	slackEntities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	slackMarkdown = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "@", "@\u200b", "](", "]\u200b(")
)
