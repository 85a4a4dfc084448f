// Show the schema of this server with Swagger UI, which loads nothing from other hosts.

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null, // it would send the schema's address to swagger.io
});
