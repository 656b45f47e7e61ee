package blob

import (
	"net/http"

	"stamp/frontend"
)

// getAccountInformation says what kind of account this is.
func (o *Operations) getAccountInformation(r *frontend.Request) error {
	r.Set("X-Ms-Sku-Name", "Standard_LRS")
	r.Set("X-Ms-Account-Kind", "StorageV2")
	r.Set("X-Ms-Is-Hns-Enabled", "false")
	r.SetInt("Content-Length", 0)
	r.WriteHead(http.StatusOK)
	return nil
}

// getServiceProperties answers that everything that can be configured is off:
// none of it can be set.
func (o *Operations) getServiceProperties(r *frontend.Request) error {
	w := newListing(r)
	defer w.free()
	const off = "<Version>1.0</Version><Enabled>false</Enabled><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
	w.x.Raw("<StorageServiceProperties>" +
		"<Logging><Version>1.0</Version><Read>false</Read><Write>false</Write><Delete>false</Delete>" +
		"<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy></Logging>" +
		"<HourMetrics>" + off + "</HourMetrics><MinuteMetrics>" + off + "</MinuteMetrics><Cors />" +
		"<DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy>" +
		"<StaticWebsite><Enabled>false</Enabled></StaticWebsite>" +
		"</StorageServiceProperties>")
	return w.finish(http.StatusOK)
}

// preflight answers a browser that asks before a request from another origin.
// No origin is allowed, for no rule can be set.
func (o *Operations) preflight(r *frontend.Request) error {
	for _, key := range [...]string{"Origin", "Access-Control-Request-Method"} {
		if r.Header(key) == "" {
			return frontend.MissingHeader(key)
		}
	}
	return frontend.Errorf(frontend.CorsPreflightFailure, "no rule matches")
}
